"""Processes that this project starts: what they import, and the signals it sends and takes."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36  # linux/prctl.h


def import_path(first: Path) -> str:
    """A PYTHONPATH with `first` in front of what is set: the current folder of the process may be anywhere."""
    return os.pathsep.join(filter(None, [str(first), os.environ.get("PYTHONPATH")]))


def signal_name(number: int) -> str:
    """The signal as its sender knows it: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None], *numbers: int) -> Iterator[None]:
    """Call `handler` for these signals inside the block; the handlers of before come back after it.

    A SIGHUP that is ignored stays so: nohup asks for it.
    """
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    before = {number: signal.signal(number, handler) for number in numbers if number not in ignored}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def why_ended(code: int) -> str:
    """Of a command that has failed: what ended it, where it could say nothing itself."""
    return f"its process was ended by {signal_name(-code)}" if code < 0 else "for the reason above"


def clear_live_line() -> None:
    """On a terminal: nothing stays of a line that a command was writing when it was ended."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def say_stopped(number: int, said: str) -> int:
    """Print that a signal has stopped this command, with what that leaves; returns its exit code."""
    clear_live_line()
    print(f"stopped by {signal_name(number)}; {said}", file=sys.stderr, flush=True)
    return 128 + number


@contextlib.contextmanager
def left_on_a_signal(said: str) -> Iterator[None]:
    """Inside the block Ctrl-C, SIGTERM and SIGHUP end this process at once, in words: libraries' imports catch what a handler raises.

    For what has nothing to tidy up. Where nothing is `said`, whoever waits for this process says it.
    """

    def leave(number: int, frame: Any) -> None:
        os._exit(say_stopped(number, said) if said else 128 + number)

    with handled(leave, *ENDING):
        yield


def run_passing_on(words: Sequence[str], **how: Any) -> tuple[int, int | None]:
    """The exit code of a command of ours, and the signal that came meanwhile: Ctrl-C, SIGTERM and SIGHUP are passed on to it, and
    it is waited for. A signal that comes while its Python starts waits there for our first import. It dies with this process."""
    came: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        child = subprocess.Popen(words, preexec_fn=functools.partial(die_with_parent, os.getpid()), **how)

        def pass_on(number: int, frame: Any) -> None:
            came.append(number)
            child.send_signal(number)

        with child, handled(pass_on, *ENDING):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = child.wait()
        if code < 0:
            clear_live_line()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return code, came[0] if came else None


def interruptible(work: Callable[[], T]) -> T:
    """What `work` returns, done in a thread: Ctrl-C is taken at once, although a library looks at no signal for minutes.

    The thread works on then, until the process ends.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return returned[0]


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent, the process `parent`, dies, or the thread of it that started this one does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def die_with_parent_process(parent: int) -> None:
    """End this process when the process `parent` dies; the thread of it that started this one may end before. Takes SIGUSR2."""

    def look(*_: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGUSR2, look)
    ctypes.CDLL(None).prctl(
        PR_SET_PDEATHSIG, signal.SIGUSR2
    )  # at the end of that thread, and of each that the kernel takes for it
    look()


@functools.cache
def forks_keep_what_they_inherit() -> None:
    """From now on no fork of this process takes apart, as garbage, what lay there before it.

    That is this process's to destroy: a process group's destructor waits for threads that a fork hasn't got, and another's may
    close a file whose number the fork has given to its own.
    """
    os.register_at_fork(after_in_child=gc.freeze)


def outlive_parent() -> None:
    """Take that back."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


def name_process(name: str) -> None:
    """What `ps` and `top` show for this process, 15 letters at most; to be called in its main thread."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Inside it, processes below this one whose parent dies become this one's children, and not init's."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)
