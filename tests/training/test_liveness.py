"""Ranks notice the death of their launcher; a start waits for ranks that still live; stacks can be asked for."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.training import liveness
from nemo_workflow.utils.errors import Refusal
from tests.e2e.run.harness import REPOSITORY
from tests.waiting import LIMIT, until

RANK = """
import os, sys, signal, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nemo_workflow.training import liveness as watch
watch.dump_stacks_on_signal(sys.stderr)
# not print: it can't be called within itself, and the signal may come while "ready" is being written
def asked(*_):
    os.write(1, b"asked to stop\\n")
    if sys.argv[4:]:
        os.kill(os.getpid(), signal.SIGSTOP)
signal.signal(signal.SIGTERM, asked)
lock = watch.hold_ranks_lock(Path(sys.argv[2]))
watch.stop_with_launcher(lambda: float(sys.argv[3]), lambda: os.path.exists(sys.argv[2] + "/saving"), Path(sys.argv[2], "told").touch)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


def rank(folder: Path, mark: str, grace: float = 1.0, *freezes: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, REPOSITORY, folder, str(grace), *freezes], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={"NEMO_WORKFLOW_LAUNCHER": mark},
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_rank_stops_when_its_launcher_is_killed(tmp_path: Path) -> None:
    launcher = subprocess.Popen(["sleep", "100"])
    process = rank(tmp_path, liveness.mark_of(launcher.pid))
    assert not liveness.ranks_gone(tmp_path, 0.3)
    launcher.kill()
    launcher.wait()
    output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert output == "asked to stop\n"  # first politely
    assert (tmp_path / "told").exists()
    assert "the launcher has died" in errors and "not stopped within 1 s" in errors
    assert liveness.ranks_gone(tmp_path, 0)


@pytest.mark.slow
def test_a_rank_that_saves_is_not_ended_before_it_has_saved(tmp_path: Path) -> None:
    launcher = subprocess.Popen(["sleep", "100"])
    process = rank(tmp_path, liveness.mark_of(launcher.pid))
    (tmp_path / "saving").touch()
    launcher.kill()
    launcher.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)
    (tmp_path / "saving").unlink()
    assert process.wait(LIMIT) == 1


@pytest.mark.slow
def test_a_rank_that_was_frozen_over_its_grace_time_is_not_ended_in_its_save(tmp_path: Path) -> None:
    """As on a busy machine: the grace time is over before the rank's watch has looked again."""
    launcher = subprocess.Popen(["sleep", "100"])
    process = rank(tmp_path, liveness.mark_of(launcher.pid), 2.0, "when it is asked to stop")
    launcher.kill()
    launcher.wait()
    assert process.stdout and process.stdout.readline() == "asked to stop\n"
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    (tmp_path / "saving").touch()
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)
    (tmp_path / "saving").unlink()
    assert process.wait(LIMIT) == 1


def test_another_process_with_the_launchers_number_does_not_count() -> None:
    own = liveness.launcher_mark()
    assert liveness.launcher_alive(own)
    pid, began = own.split()
    assert not liveness.launcher_alive(f"{pid} {int(began) - 1}")
    assert not liveness.launcher_alive("999999999 1")
    dead = subprocess.Popen(["true"])
    mark = liveness.mark_of(dead.pid)
    assert os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert not liveness.launcher_alive(mark)
    dead.wait()


def test_a_clock_that_is_set_does_not_look_like_the_launchers_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: setting the clock needs a machine of its own. The kernel moves the time of boot by as much."""
    mark = liveness.launcher_mark()
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 90)
    assert liveness.launcher_alive(mark)


def test_a_name_with_blanks_and_parentheses_hides_no_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) Z (b"
    program.symlink_to(shutil.which("sleep") or "")
    process = subprocess.Popen([program, "100"])
    assert liveness.launcher_alive(liveness.mark_of(process.pid))
    process.kill()
    process.wait()


def test_the_lock_of_the_ranks_goes_with_the_last_of_them(tmp_path: Path) -> None:
    mark = liveness.launcher_mark()
    first, second = rank(tmp_path, mark), rank(tmp_path, mark)
    first.kill()
    first.wait()
    assert not liveness.ranks_gone(tmp_path, 0.3)
    second.kill()
    second.wait()
    assert liveness.ranks_gone(tmp_path, LIMIT)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_trained_on(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mock: here every disk has locks."""

    def no_lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_lock)
    liveness.lock_run(tmp_path).close()
    assert "the disk has no locks" in capsys.readouterr().err
    liveness.lock_run(tmp_path).close()
    assert capsys.readouterr().err == ""  # once a command
    liveness.hold_ranks_lock(tmp_path).close()
    assert liveness.ranks_gone(tmp_path, 0)


def test_a_start_is_refused_while_old_ranks_do_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from nemo_workflow.launch import local

    monkeypatch.setattr(local, "OLD_RANKS_SECONDS", 0.2)
    plan = SimpleNamespace(folder=tmp_path, settings=Settings(grace_seconds=0.2), accelerator="cpu")
    process = rank(tmp_path, liveness.launcher_mark())
    with pytest.raises(Refusal, match="ranks of an earlier start still run"):
        local.wait_for_old_ranks(plan)  # type: ignore[arg-type]
    process.kill()
    process.wait()
    local.wait_for_old_ranks(plan)  # type: ignore[arg-type]


@pytest.mark.slow
def test_old_ranks_that_save_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a start on this machine, and by rank 0 of a Slurm job."""
    from types import SimpleNamespace

    from nemo_workflow.launch import local

    monkeypatch.setattr(local, "OLD_RANKS_SECONDS", 0.2)
    plan = SimpleNamespace(folder=tmp_path, settings=Settings(grace_seconds=0.2), accelerator="cpu")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000004-unfinished").touch()  # NeMo's mark
    process = rank(tmp_path, liveness.launcher_mark())
    threading.Timer(2, process.kill).start()
    local.wait_for_old_ranks(plan)  # type: ignore[arg-type]
    assert process.wait() == -signal.SIGKILL

    held = liveness.lock_run(tmp_path)
    program = (
        "import sys; from pathlib import Path; from nemo_workflow.launch.slurm import rank; rank.LOCK_SECONDS = 0.2;"
        " print('waiting', flush=True); rank.take_lock(Path(sys.argv[1])); print('taken')"
    )
    job = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert job.stdout and job.stdout.readline() == "waiting\n"
    threading.Timer(2, held.close).start()
    assert job.communicate(timeout=LIMIT)[0] == "taken\n" and job.returncode == 0


DEAF_FOR_A_WHILE = """
import signal, sys, time
sys.path.insert(0, sys.argv[1])
from nemo_workflow.training import liveness
liveness.dump_stacks_on_signal(sys.stderr)
signal.pthread_sigmask(signal.SIG_BLOCK, [liveness.DUMP_STACKS])
print("ready", flush=True)
time.sleep(3)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [liveness.DUMP_STACKS])
time.sleep(1000)
"""


@pytest.mark.slow
def test_a_hung_rank_that_gets_no_core_for_seconds_shows_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine: the signal that asks for it waits."""
    monkeypatch.setattr(liveness, "STACK_SECONDS", 0.2)
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF_FOR_A_WHILE, REPOSITORY], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    liveness.end_hung([psutil.Process(process.pid)])
    assert "most recent call first" in process.communicate(timeout=LIMIT)[1]


@pytest.mark.slow
@pytest.mark.parametrize("comes", [True, False])
def test_a_nodes_watcher_waits_for_the_others(comes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk shows them late that nothing has happened; one that is lost is not waited for for ever."""
    from nemo_workflow.training import node_watch

    monkeypatch.setattr(node_watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(node_watch, "TOGETHER_SECONDS", LIMIT if comes else 0.5)
    mark = tmp_path / "hung-0"
    mark.write_text("no step for 30 min\n")
    if comes:
        threading.Timer(1, mark.write_text, ["no step for 30 min\nno step for 30 min\n"]).start()
    node_watch._wait_for_others(mark, 2)
    assert len(mark.read_text().splitlines()) == 1 + comes
    node_watch._wait_for_others(mark, 1)  # alone: at once


def test_stacks_on_request(tmp_path: Path) -> None:
    """Asked while its other thread is at work, again and again, the rank lives on."""
    process = rank(tmp_path, liveness.launcher_mark())
    for _ in range(20):
        liveness.ask_for_stacks(psutil.Process(process.pid))
        time.sleep(0.02)
    assert process.poll() is None
    process.kill()
    assert process.stderr
    assert "most recent call first" in process.stderr.read()
    process.wait()


def test_stacks_of_a_stopped_rank(tmp_path: Path) -> None:
    """Its main thread's, though as it wakes any thread could take a signal that was sent to the process."""
    for _ in range(5):
        process = rank(tmp_path, liveness.launcher_mark())
        own = psutil.Process(process.pid)
        own.suspend()
        liveness.ask_for_stacks(own)
        own.resume()
        assert process.stderr and any('File "<string>"' in line for line in process.stderr)
        process.kill()
        process.wait()


# as megatron-core writes shards: the rank joins a queue, its forked writer marks the work as done; and a writer's own child
WRITER = """
import multiprocessing, os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nemo_workflow.training import liveness as watch
lock = watch.hold_ranks_lock(Path(sys.argv[2]))
watch.end_children_with_rank()
fork = multiprocessing.get_context("fork")
queue = fork.JoinableQueue()
queue.put(0)

def write():
    fork.Process(target=time.sleep, args=(1000,)).start()
    print("writing", flush=True)
    while os.getppid() == rank:  # until the rank is dead
        time.sleep(0.01)
    queue.get()
    queue.task_done()  # waits for ever for the process that waits in join

rank = os.getpid()
thread = threading.Thread(target=lambda: fork.Process(target=lambda: None).start())
thread.start()
thread.join()  # a fork of a thread that has ended is no reason to die
fork.Process(target=write).start()
queue.join()
"""


def test_what_a_rank_forked_dies_with_it(tmp_path: Path) -> None:
    rank = subprocess.Popen(
        [sys.executable, "-c", WRITER, REPOSITORY, tmp_path],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert rank.stdout and rank.stdout.readline() == "writing\n"
    time.sleep(0.5)  # the rank waits in join
    rank.kill()
    rank.wait()
    assert liveness.ranks_gone(tmp_path, LIMIT)
