"""preloaded.py: which commands are forked, and that what they start is a child as subprocess starts one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked, preloaded

PYTHON = sys.executable


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["/usr/bin/python3", "-c", ""], {}),
        ([PYTHON, "-O", "-c", ""], {}),
        ([PYTHON, "-c", ""], {"ATEN_CPU_CAPABILITY": "avx2"}),
        ([PYTHON, "-c", ""], {"HF_HOME": "/elsewhere"}),
        ([PYTHON, "-c", ""], {"HOME": "/elsewhere"}),
        ([PYTHON, "-c", ""], {"PYTHONOPTIMIZE": "2"}),
        ([PYTHON, "-c", ""], {"NEMO_WORKFLOW_FRESH_RANKS": "1"}),
        ([PYTHON, "-c", ""], {"PYTHONPATH": "changed"}),
        ([PYTHON, "-c", ""], {"PYTHONPATH": "stranger"}),
    ],
)
def test_what_would_not_be_the_same_is_started_from_nothing(
    words: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    code = tmp_path / "changed" / "nemo_workflow"
    shutil.copytree(forked.REPOSITORY / "nemo_workflow", code, ignore=shutil.ignore_patterns("__pycache__"))
    with (code / "training" / "worker.py").open("a") as stream:
        stream.write("# a fault\n")
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "apex.py").touch()
    assert preloaded.unfit(words, forked.VARIABLES | variables, tmp_path, [forked.VARIABLES])


def test_our_own_sources_elsewhere_and_what_is_read_again_are_no_hindrance(tmp_path: Path) -> None:
    shutil.copytree(forked.REPOSITORY / "nemo_workflow", tmp_path / "code" / "nemo_workflow")
    variables = {"PYTHONPATH": "code", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NEMORUN_HOME": "x", "A": "b"}
    assert not preloaded.unfit([PYTHON, "-c", ""], forked.VARIABLES | variables, tmp_path, [forked.VARIABLES])


CHILD = """
import json, os, signal, sys
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("A"), os.getsid(0) == os.getpid(), os.read(int(sys.argv[1]), 9).decode(),
                  signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sys.stdin.read(), os.getppid(), "torch" in sys.modules]))
sys.stderr.write("said")
sys.exit(7)
"""
PARENT = f"""
import atexit, os, signal, subprocess, sys, tempfile, threading
atexit.register(print, "the parent's own end")
signal.signal(signal.SIGTERM, lambda *_: None)
kept = open(os.devnull)
ours, theirs = os.pipe()
os.write(theirs, b"piped")
def start():
    global done
    done = subprocess.run([sys.executable, "-c", {CHILD!r}, str(ours)], input="typed", capture_output=True, text=True, cwd="/",
                          env=os.environ | {{"A": "b"}}, start_new_session=True, pass_fds=[ours])
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(done.stdout.strip(), done.stderr, done.returncode, os.getpid(), sep="\\n", flush=True)
killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
killed.terminate()
print(killed.wait())
"""


@pytest.mark.e2e
def test_a_child_is_as_subprocess_starts_one() -> None:
    real = subprocess.run([PYTHON, "-c", PARENT], capture_output=True, text=True, check=False)
    done = preloaded.run([PYTHON, "-c", PARENT])
    seen = []
    for each in (real, done):
        assert each.returncode == 0, each.stderr
        child, said, code, parent, killed, end = each.stdout.splitlines()
        *rest, ppid, loaded = json.loads(child)
        assert ppid == int(parent)
        seen.append((rest[1:], said, code, killed, end, loaded))
    assert seen[0][:-1] == seen[1][:-1]
    assert [each[-1] for each in seen] == [False, True]


@pytest.mark.e2e
def test_torch_has_the_threads_that_the_variable_says() -> None:
    program = "import torch; print(torch.get_num_threads(), torch.__config__.parallel_info())"
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = preloaded.run([PYTHON, "-c", program], env=variables)
    real = subprocess.run([PYTHON, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == real.stdout
