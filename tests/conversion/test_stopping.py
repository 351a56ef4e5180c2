"""A conversion that is stopped or killed: what it says, what it leaves, who is still at work; and others on a shared disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.conversion import output_dir
from nemo_workflow.conversion.output_dir import whole_folder
from nemo_workflow.utils.processes import signal_name
from tests.waiting import LIMIT, all_gone, until

# a conversion whose work is to wait: real processes, signals and folders
WAITING = """
import sys, time
from pathlib import Path
from nemo_workflow.conversion.background import beside
from nemo_workflow.conversion.output_dir import whole_folder
from nemo_workflow.conversion.stopping import until_stopped
def work():
    with whole_folder(Path(sys.argv[1])) as aside:
        def write():
            (aside / "begun").touch()
            time.sleep(600)
        with beside(write, "writing"):
            time.sleep(600)
sys.exit(until_stopped(work, "the import"))
"""

# the same, in a library that catches everything once; then what the conversion does at its end
CAUGHT = """
import sys, time
from pathlib import Path
from nemo_workflow.conversion.output_dir import whole_folder
from nemo_workflow.conversion.background import beside
from nemo_workflow.conversion.stopping import stop_no_more, until_stopped
def library(aside):
    try:
        (aside / "begun").touch()
        time.sleep(600)
    except:
        pass
def work():
    with whole_folder(Path(sys.argv[1])) as aside:
        if sys.argv[2] == "beside":
            with beside(lambda: time.sleep(600), "writing"):
                library(aside)
        elif sys.argv[2] == "half made":
            library(aside)
            sys.ndarray
        else:
            library(aside)
            stop_no_more()
    return 0
sys.exit(until_stopped(work, "the import"))
"""
# the same, at the moment when its output gets its name
LAST = """
import os, signal, sys
from pathlib import Path
from nemo_workflow.conversion.output_dir import whole_folder
from nemo_workflow.conversion.stopping import stop_no_more, until_stopped
def work():
    with whole_folder(Path(sys.argv[1])):
        stop_no_more()
        os.kill(os.getpid(), signal.SIGTERM)
    return 0
sys.exit(until_stopped(work, "the import"))
"""


def started(command: list[str], folder: Path, writers: int = 1) -> tuple[subprocess.Popen[str], list[int]]:
    """The command, with its writer at work, and the processes that it has."""
    begun = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def at_work() -> bool:
        assert begun.poll() is None, begun.stderr and begun.stderr.read()
        return bool(list(folder.glob(".out.*.partial/*"))) and len(psutil.Process(begun.pid).children()) >= writers

    until(at_work)
    return begun, [child.pid for child in psutil.Process(begun.pid).children()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
@pytest.mark.parametrize("everyone", [False, True], ids=["to the command", "to its whole group"])
def test_it_says_so_and_leaves_nothing(number: signal.Signals, code: int, everyone: bool, tmp_path: Path) -> None:
    begun, writers = started([sys.executable, "-c", WAITING, str(tmp_path / "out")], tmp_path)
    (os.killpg if everyone else os.kill)(begun.pid, number)
    _, said = begun.communicate(timeout=LIMIT)
    assert (
        begun.returncode == code and f"the import stopped by {signal_name(number)}" in said and "Traceback" not in said
    )
    assert list(tmp_path.iterdir()) == [] and all_gone(writers)


def test_a_writer_that_is_ended_as_it_starts_says_nothing() -> None:
    """It has our handlers until it has its own; of the hundred that are begun here, the signal finds some before that."""
    program = """
import contextlib, time
from nemo_workflow.conversion.background import beside
from nemo_workflow.conversion.stopping import until_stopped
def work():
    for _ in range(100):
        with contextlib.suppress(KeyError), beside(lambda: time.sleep(60), "the writer"):
            raise KeyError
    return 0
until_stopped(work, "the import")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("where", "writers"), [("beside", 1), ("alone", 0)])
def test_what_a_library_catches_is_raised_again(where: str, writers: int, tmp_path: Path) -> None:
    begun, processes = started([sys.executable, "-c", CAUGHT, str(tmp_path / "out"), where], tmp_path, writers)
    begun.terminate()
    _, said = begun.communicate(timeout=LIMIT)
    assert begun.returncode == 143 and "the import stopped by SIGTERM" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == [] and all_gone(processes)


def test_what_has_its_name_is_not_said_to_be_removed(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LAST, str(tmp_path / "out")], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "") and (tmp_path / "out").is_dir()


@pytest.mark.slow
def test_nobody_writes_on_after_a_kill(tmp_path: Path) -> None:
    begun, writers = started([sys.executable, "-c", WAITING, str(tmp_path / "out")], tmp_path)
    begun.kill()
    begun.wait()
    assert all_gone(writers)
    with whole_folder(tmp_path / "out"):  # the next start clears up
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_machines_conversion_on_a_shared_disk_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process id says nothing here. There is one machine here: the other's name is made up."""
    theirs = tmp_path / ".out.1234567@other-host-4026531836.abc.partial"
    theirs.mkdir()
    old = theirs.with_suffix(".old")
    old.mkdir()
    (old / "model").touch()
    with whole_folder(tmp_path / "out"):
        pass
    assert theirs.exists() and old.exists()  # the other machine is just between its two renames
    (tmp_path / "out").rmdir()
    monkeypatch.setattr(output_dir, "SWAP_SECONDS", -1)  # or it was killed there, long ago
    output_dir._restore(tmp_path / "out")
    assert (tmp_path / "out" / "model").exists() and theirs.exists()
