"""Threads and signals that keep a rank from outliving its run or hanging in silence. Imports neither torch nor NeMo."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import psutil

from nemo_workflow.run_dir import metrics
from nemo_workflow.utils import scratch
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import flock
from nemo_workflow.utils.processes import die_with_parent

LAUNCHER = "NEMO_WORKFLOW_LAUNCHER"  # environment variable: "pid start-ticks" of the process that started the ranks
RUN_LOCK = ".lock"  # in the run's folder, held by its launcher, or by rank 0 of a Slurm job
RANKS_LOCK = ".ranks.lock"  # in the run's folder, held shared by every rank as long as it lives
HEARTBEAT = "heartbeat"  # in the attempt's folder, touched by rank 0 with every step
DUMP_STACKS = signal.SIGUSR2
SAVE_SECONDS = 3600.0  # after which a save without a launcher is taken for one that hangs
BEAT_SECONDS = 1.0
STACK_SECONDS = 2.0  # for all ranks to write their stacks, once each has begun to:
HEARD_SECONDS = 30.0  # that a busy machine may take to let them
START_SECONDS = (
    3600.0  # that a start may take to its first step, whatever --timeout-minutes says: imports, loading, compiling
)
LATE_SECONDS = 5.0  # between two looks, after which whoever looks was asleep too
GRACE_LOOK_SECONDS = 0.5  # between two looks at a rank that was asked to stop


def launcher_mark() -> str:
    """What LAUNCHER is set to in the ranks' environment by the process that calls this."""
    return mark_of(os.getpid())


def mark_of(pid: int) -> str:
    """The number of a process and when it began, in the kernel's ticks since boot: a clock that is set changes nothing."""
    return f"{pid} {_stat(pid)[19]}"


def without_launcher() -> bool:
    """Whether this rank has none that will write the run's last report: a Slurm job, or one whose launcher was killed."""
    mark = os.environ.get(LAUNCHER)
    return not mark or not launcher_alive(mark)


def launcher_alive(mark: str) -> bool:
    """Whether the process of a mark still runs; another one with its number does not count."""
    pid, _, began = mark.partition(" ")
    try:
        state, *_, ticks = _stat(int(pid))[:20]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return ticks == began and state not in "ZX"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second, the name, may hold blanks and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def dump_stacks_on_signal(stream: TextIO) -> None:
    """On SIGUSR2 write the main thread's stack to `stream`; works while the rank hangs in C code.

    Only that one: faulthandler reads the others while they run, and a rank that is asked could die of it.
    """
    faulthandler.enable(stream, all_threads=True)
    faulthandler.register(DUMP_STACKS, stream, all_threads=False, chain=False)


def ask_for_stacks(rank: psutil.Process) -> None:
    """Send SIGUSR2 to a rank's main thread: when a process is stopped, any of its threads may take a signal to it."""
    if rank.is_running():
        ctypes.CDLL(None).tgkill(rank.pid, rank.pid, DUMP_STACKS)


def is_stopped(process: psutil.Process) -> bool:
    """Whether a process is stopped by a signal."""
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def end_hung(ranks: list[psutil.Process]) -> None:
    """Have ranks write their stacks to their logs, and kill them in this order."""
    for rank in ranks:
        ask_for_stacks(rank)
    _until_heard(ranks)
    time.sleep(STACK_SECONDS)
    asleep = [rank for rank in ranks if is_stopped(rank)]
    if asleep:
        for rank in ranks[:-1]:
            if rank not in asleep:
                send(rank, signal.SIGKILL)  # first: training must not go on
        for rank in asleep:
            send(rank, signal.SIGCONT)  # a stopped one writes nothing before it is woken
        _until_heard(asleep)
        time.sleep(STACK_SECONDS)
    for rank in ranks:
        send(rank, signal.SIGKILL)


def _until_heard(ranks: list[psutil.Process]) -> None:
    """Return when each rank that isn't stopped has taken DUMP_STACKS, at the latest after HEARD_SECONDS."""
    end = time.monotonic() + HEARD_SECONDS
    while any(_pending(rank) and not is_stopped(rank) for rank in ranks) and time.monotonic() < end:
        time.sleep(0.05)


def _pending(rank: psutil.Process) -> bool:
    """Whether DUMP_STACKS waits for a process's main thread."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{rank.pid}/task/{rank.pid}/status").read_text(encoding="utf-8", errors="replace")
        mask = next((line.split()[1] for line in status.splitlines() if line.startswith("SigPnd:")), "0")
        return bool(int(mask, 16) & 1 << (DUMP_STACKS - 1))
    return False


def send(process: psutil.Process, number: int) -> None:
    """Send a signal to a process if it still is the one that it was."""
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def lock_run(folder: Path) -> TextIO:
    """Take the run's lock; it goes with the process, so a crash leaves none behind. Raises Refusal if another holds it."""
    stream = (folder / RUN_LOCK).open("a")
    try:
        if not flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _tell_of_no_locks(folder)
    except BlockingIOError:
        stream.close()
        raise Refusal(
            f"--experiment {folder.name}: already running ({folder}); wait for it, stop it, or choose another name"
        ) from None
    return stream


@functools.cache  # the export after the training takes the lock once more
def _tell_of_no_locks(folder: Path) -> None:
    print(f"note: {folder}: the disk has no locks, so a second start of the run is not noticed", file=sys.stderr)


def hold_ranks_lock(folder: Path) -> TextIO:
    """Take the shared lock that says that ranks of the run live; it goes with the last process that inherits it."""
    stream = (folder / RANKS_LOCK).open("a")
    with contextlib.suppress(OSError):  # a rank can do without
        flock(stream, fcntl.LOCK_SH)
    return stream


def ranks_gone(folder: Path, wait_seconds: float) -> bool:
    """Whether no rank of an earlier start lives, at the latest after `wait_seconds`; a disk without locks knows of none."""
    end = time.monotonic() + wait_seconds
    with (folder / RANKS_LOCK).open("a") as stream:
        while True:
            try:
                flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > end:
                    return False
                time.sleep(0.2)


def end_children_with_rank() -> None:
    """Have every process that this rank's main thread forks from now on killed when the rank dies.

    After `kill -9` a writer of checkpoint shards would wait for its dead parent for ever, and hold the ranks' lock.
    A fork by another thread is left alone: the kernel would kill it at the end of that thread.
    """
    parent = 0

    def before() -> None:
        nonlocal parent
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0

    def in_child() -> None:
        if parent:
            die_with_parent(parent)

    os.register_at_fork(before=before, after_in_child=in_child)


def stop_with_launcher(
    grace_seconds: Callable[[], float], saving: Callable[[], bool], tell: Callable[[], None]
) -> None:
    """Ask this rank to stop when the launcher dies, and end it when it has not stopped after `grace_seconds` without a save.

    Both are asked when it comes to it: the grace time follows the steps. `tell` writes down that it came to it.

    A rank whose own parent (torchrun) died ends at once: its peers can't be told any more.
    """
    mark = os.environ.get(LAUNCHER)
    if not mark:
        return  # a Slurm job: the ranks live on the cluster, the launcher may go
    threading.Thread(
        target=_follow, args=(mark, os.getppid(), grace_seconds, saving, tell), name="launcher watch", daemon=True
    ).start()


def _follow(
    mark: str, parent: int, grace_seconds: Callable[[], float], saving: Callable[[], bool], tell: Callable[[], None]
) -> None:
    while launcher_alive(mark):
        if os.getppid() != parent:
            _leave("torchrun, this rank's parent, has died: leaving at once")
        time.sleep(1)
    print("the launcher has died: stopping as after SIGTERM", file=sys.stderr, flush=True)
    tell()
    os.kill(os.getpid(), signal.SIGTERM)
    grace = left = grace_seconds()
    end = time.monotonic() + SAVE_SECONDS
    looked = time.monotonic()
    while left > 0 and time.monotonic() < end and os.getppid() == parent:
        time.sleep(GRACE_LOOK_SECONDS)
        now = time.monotonic()
        # a machine that slept, or was too busy to look, has given the rank no time either
        left = grace if saving() else left - min(now - looked, 2 * GRACE_LOOK_SECONDS)
        looked = now
    _leave(f"not stopped within {grace:.0f} s after the launcher's death: leaving at once")


def _leave(why: str) -> None:
    print(why, file=sys.stderr, flush=True)
    scratch.leave_sockets()
    os._exit(1)


class Patience:
    """Counts seconds from `renew`, as long as it is looked at. A look that comes far later than the one before starts the count again.

    Whoever looks was frozen then (docker pause, scontrol suspend, a laptop's lid), and what it waits for was too.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._begun = self._looked = time.monotonic()

    def seconds(self) -> float:
        now = time.monotonic()
        if now - self._looked > LATE_SECONDS:
            self._begun = now
        self._looked = now
        return now - self._begun


class Silence:
    """How long a run has shown no step, validation batch or line of its metrics file. `folder` is its start's.

    Only that a file's time has changed is looked at: the clock may be set, and a file server has its own.
    """

    def __init__(self, folder: Path, run: Path):
        self._heartbeat = folder / HEARTBEAT
        self._paths = (folder, self._heartbeat, run / metrics.FILE)
        self._signs: list[int] = []
        self._patience = Patience()

    def too_long(self, limit: float) -> float:
        """The seconds that it may last, where it has lasted longer, else 0: `limit`, but START_SECONDS where that is more before a start's first step.

        A slow network disk can keep the imports, and the loading of a large checkpoint, longer than any step takes.
        """
        seconds = self.seconds()
        if seconds < limit:
            return 0.0
        allowed = limit if self._heartbeat.exists() else max(limit, START_SECONDS)
        return allowed if seconds >= allowed else 0.0

    def seconds(self) -> float:
        signs = []
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                signs.append(path.stat().st_mtime_ns)
        if signs != self._signs:
            self._signs = signs
            self._patience.renew()
        return self._patience.seconds()


class Heartbeat:
    """A file whose age tells how long ago a step was made; touched at most once a second."""

    def __init__(self, folder: Path):
        self.path = folder / HEARTBEAT
        self._last = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if now - self._last >= BEAT_SECONDS:
            self.path.touch()
            self._last = now
