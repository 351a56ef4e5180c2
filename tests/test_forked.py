"""forked.py: what a test sees of a forked command is what it sees of one that was started from nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.waiting import all_gone

ENDS = {
    "a word": ["-c", "import sys; print(sys.argv, __name__, repr(sys.path[0])); sys.exit('a word')", "-x", "y"],
    "a number": ["-c", "import atexit, sys; atexit.register(print, 'at the end'); sys.exit(300)"],
    "an error": ["-c", "print('before'); 1 / 0"],
    "Ctrl-C": ["-c", "raise KeyboardInterrupt"],
    "a signal": ["-c", "import os; print('lost'); os.kill(os.getpid(), 9)"],
    "a thread": ["-c", "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start(); print('soon')"],
    "a module": ["-m", "nemo_workflow.runs", "lst"],
    "a script": ["pretrain_llm.py", "--max-stps", "3"],
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_as_a_process_does(end: str, tmp_path: Path) -> None:
    words = ENDS[end]
    real = subprocess.run([sys.executable, *words], cwd=forked.REPOSITORY, capture_output=True, text=True, check=False)
    done = forked.run(words)
    assert (done.returncode, done.stdout) == (real.returncode, real.stdout)
    own = Path(forked.__file__).name  # of a traceback it has the first lines
    lines = [line for line in done.stderr.splitlines() if own not in line and "exec(compile(" not in line]
    assert [line for line in lines if "_run(order" not in line] == real.stderr.splitlines()


def test_variables_and_the_current_folder_are_the_callers(tmp_path: Path) -> None:
    program = "import os, sys; from pathlib import Path; print(Path.cwd(), os.environ.get('A'), os.environ.get('PATH'), sys.path[1])"
    done = forked.run(["-c", program], cwd=tmp_path, env={"A": "b", "PYTHONPATH": "/c"})
    assert done.stdout == f"{tmp_path} b None /c\n", done.stderr


def test_what_takes_too_long_is_killed_and_the_next_one_runs() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run(["-c", "import time; time.sleep(100)"], timeout=0.2)
    assert forked.run(["-c", "print('next')"]).stdout == "next\n"


def test_a_command_that_a_failed_test_left_running_has_no_part_in_the_next(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as stream:
        left = forked.start(["-c", "import time; time.sleep(100)"], stream, stream)
    assert forked.run(["-c", "print('next')"]).stdout == "next\n"
    assert left.returncode == -9


def test_nothing_heavy_is_there_before_the_command_asks_for_it() -> None:
    """So that a test of what a command imports sees what the command does."""
    done = forked.run(["-c", f"import sys; print(sorted(set({forked.HEAVY}) & sys.modules.keys()))"])
    assert done.stdout == "[]\n", done.stderr


def test_the_process_that_forks_goes_with_its_parent() -> None:
    program = "from tests import forked; forked.run(['-c', '']); print(forked._Server.of_this_process().process.pid)"
    real = subprocess.run(
        [sys.executable, "-c", program], cwd=forked.REPOSITORY, capture_output=True, text=True, check=True
    )
    # gone, or a zombie where nobody waits for orphans (a container without an init)
    assert all_gone([int(real.stdout)])
