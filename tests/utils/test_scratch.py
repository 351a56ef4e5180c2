"""Folders for temporary files: none stays behind, however its process ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_workflow.utils import scratch
from tests.waiting import LIMIT

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESS = """
import multiprocessing, os, sys
from multiprocessing.managers import SyncManager
from nemo_workflow.utils import scratch
from nemo_workflow.utils.processes import die_with_parent
scratch.keep_sockets()
manager = SyncManager(ctx=multiprocessing.get_context("fork"))
manager.start(die_with_parent, (os.getpid(),))
manager.Queue().put(1)
with scratch.scratch_folder() as folder:
    (folder / "copy").mkdir()
    print("ready", flush=True)
    sys.stdin.readline()
    if sys.argv[1] == "leave":
        scratch.leave_sockets()
        os._exit(75)
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short enough for sockets
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr("tempfile.tempdir", None)
        yield Path(folder)


def started(how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, how], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_process_that_ends_leaves_nothing(place: Path) -> None:
    process = started("end")
    assert len(list(place.iterdir())) == 2 and not list(place.glob("pymp-*"))
    process.communicate("go on\n", timeout=LIMIT)
    assert process.returncode == 0 and list(place.iterdir()) == []


def test_a_process_that_leaves_by_os_exit_leaves_no_sockets(place: Path) -> None:
    process = started("leave")
    process.communicate("go on\n", timeout=LIMIT)
    assert len(list(place.iterdir())) == 1  # the block's, which was not left
    scratch.sweep()
    assert process.returncode == 75 and list(place.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_process_has_left_goes_with_the_next_command(place: Path) -> None:
    (place / "nemo-another8").mkdir()  # not made here
    alive, killed = started("end"), started("end")
    killed.kill()
    killed.communicate(timeout=LIMIT)  # until its child has gone too
    assert len(list(place.iterdir())) == 5
    command = [sys.executable, "-m", "nemo_workflow.runs", "--output-dir", str(place), "list"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True).returncode == 0
    assert len(list(place.iterdir())) == 3  # the other's, and those in use
    alive.communicate("go on\n", timeout=LIMIT)
    assert alive.returncode == 0 and [path.name for path in place.iterdir()] == ["nemo-another8"]
