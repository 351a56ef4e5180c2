"""Signals that a command takes while it works."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.run.harness import REPOSITORY
from tests.waiting import LIMIT

HEARS = """
import os, signal
from nemo_workflow.utils.processes import handled
heard = []
with handled(lambda number, frame: heard.append(number), signal.SIGHUP, signal.SIGTERM):
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
print(*map(int, heard))
"""


@pytest.mark.parametrize(
    ("before", "heard"), [([], [signal.SIGHUP, signal.SIGTERM]), (["nohup"], [signal.SIGTERM])], ids=["plain", "nohup"]
)
def test_nohup_protects(before: list[str], heard: list[int]) -> None:
    done = subprocess.run(
        [*before, sys.executable, "-c", HEARS], cwd=REPOSITORY, capture_output=True, text=True, check=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    assert [int(word) for word in done.stdout.split()] == heard


LEAVES = """
import sys, time
from nemo_workflow.utils.processes import left_on_a_signal
with left_on_a_signal(sys.argv[1]):
    try:
        print("begun", flush=True)
        time.sleep(100)
    except:  # as a library's import has it
        pass
print("went on")
"""


@pytest.mark.parametrize("what", ["nothing was written", ""])
@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_is_taken_that_a_library_would_catch(number: int, said: str, what: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEAVES, what], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", f"stopped by {said}; {what}\n" if what else "")
    assert process.returncode == 128 + number


# Ctrl-C while the command's Python starts: by a line of its site-packages, which would show a traceback
PASSES_ON = """
import sys
from nemo_workflow.utils.processes import run_passing_on
print(run_passing_on([sys.argv[1], "-m", "nemo_workflow.runs", "list"]))
"""


def test_a_signal_at_a_commands_first_moment_waits_for_our_first_import(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "python"], check=True)
    (site,) = (tmp_path / "python").glob("lib/python3.*/site-packages")
    (site / "_first.pth").write_text("import os; os.kill(os.getpid(), 2)\n")
    python = tmp_path / "python" / "bin" / "python"
    done = subprocess.run(
        [sys.executable, "-c", PASSES_ON, python], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("(130, None)\n", "")


WAITS = """
import sys
from nemo_workflow.utils.processes import run_passing_on
run_passing_on([sys.executable, "-c", "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"])
"""


def test_a_command_of_ours_does_not_outlive_the_one_that_waits_for_it() -> None:
    """Or an export would go on, unseen, after `kill -9` of its training's launcher."""
    with subprocess.Popen([sys.executable, "-c", WAITS], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    child.wait(LIMIT)
