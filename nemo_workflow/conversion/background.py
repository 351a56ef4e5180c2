"""A piece of work in a process beside this one: the weights are written while NeMo, which takes as long, is imported here.

A process and not a thread: both would wait for each other at Python's lock, and import the same modules half way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from nemo_workflow.conversion.stopping import raise_if_stopped
from nemo_workflow.utils.errors import Failure
from nemo_workflow.utils.processes import ENDING, die_with_parent, forks_keep_what_they_inherit


@contextlib.contextmanager
def beside(work: Callable[[], None], what: str) -> Iterator[None]:
    """Run `work` in a fork of this process while the block runs; the block ends when both have.

    Raises what `work` raised, or a Failure that names `what` if its process was killed. An error in the block ends the work.
    """
    forks_keep_what_they_inherit()
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_run, args=(work, sender, os.getpid()), daemon=True)
    # until the process has handlers of its own it would run ours
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        process.start()
        sender.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
        raise_if_stopped()
        try:
            error = receiver.recv()
        except EOFError:
            process.join()
            raise Failure(
                f"{what} was ended from outside (exit code {process.exitcode}): was it out of memory?"
            ) from None
        if error is not None:
            raise error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if process.pid:
            process.terminate()
            process.join()
        receiver.close()


def _run(work: Callable[[], None], sender: Connection, parent: int) -> None:
    die_with_parent(parent)  # whatever ends it, nobody writes on
    for number in (signal.SIGINT, signal.SIGHUP):  # which a terminal sends to both: the parent ends this process
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # OpenMP's threads don't survive a fork, and waiting for them would never end
    error: BaseException | None = None
    try:
        work()
    except BaseException as raised:  # noqa: BLE001 -- raised again by the other process
        error = raised
    try:
        sender.send(error)
    except (pickle.PicklingError, TypeError, AttributeError):
        sender.send(RuntimeError(repr(error)))
