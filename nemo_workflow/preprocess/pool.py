"""Worker processes for an ordered stream of tasks. A killed worker is an error at once, a killed parent takes its workers along.

multiprocessing.Pool waits for ever for the result of a worker that was killed, and workers of both it and
concurrent.futures outlive a parent that was.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.processes import die_with_parent

FORK = multiprocessing.get_context("fork")  # workers share the loaded tokenizer's memory


class _Worker:
    def __init__(self, make_handler: Callable[[], tuple[Any, Callable[[Any], Any]]]):
        self.connection, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_serve, args=(theirs, make_handler, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        # What it has yet to answer, in order: the number of a task, or what to call when an order is done.
        self.pending: deque[int | Callable[[], None]] = deque()

    def close(self) -> None:
        """End it at once, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def send(self, task: Any) -> None:
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def receive(self) -> Any:
        """Its next message; raises Failure when it died, and what the worker itself raised."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if kind == "error":
            raise value
        return value

    def _death(self) -> Failure:
        self.process.join(5)
        code = self.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        hint = "; the machine may be out of memory: try fewer --workers" if code == -signal.SIGKILL else ""
        return Failure(f"worker process {self.process.pid} died ({how}){hint}")


class Pool:
    """`make_handler` runs in each worker once and returns the function for its tasks; `hellos` is what it greets with."""

    def __init__(self, count: int, make_handler: Callable[[], tuple[Any, Callable[[Any], Any]]]):
        self.workers = [_Worker(make_handler) for _ in range(count)]
        try:
            self.hellos = [worker.receive() for worker in self.workers]
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Iterator[tuple[Any, bool]], idle: Callable[[], None]) -> Iterator[tuple[Any, Any, int]]:
        """(task, result, worker) in the order of the tasks; each task comes with whether it is small.

        A worker holds two small tasks at a time, so that it never waits for its parent, or one large one: two large
        messages that meet in a pipe would block both ends. `idle` is called now and then while results are awaited.
        """
        open_tasks: dict[int, Any] = {}
        self._results: dict[int, tuple[Any, int]] = {}
        first, number, waiting, exhausted = 0, 0, None, False
        while True:
            while len(open_tasks) < 3 * len(self.workers):
                if waiting is None and not exhausted:
                    waiting = next(tasks, None)
                    exhausted = waiting is None
                worker = self._free(small=waiting[1]) if waiting else None
                if worker is None or waiting is None:
                    break
                open_tasks[number] = waiting[0]
                worker.pending.append(number)
                worker.send(waiting[0])
                number, waiting = number + 1, None
            if first in self._results:
                result, owner = self._results.pop(first)
                yield open_tasks.pop(first), result, owner
                first += 1
            elif any(worker.pending for worker in self.workers):
                self._collect()
                idle()
            elif exhausted and waiting is None:
                return

    def order(self, worker: int, message: Any, done: Callable[[], None]) -> None:
        """Have one worker do something small; `done` is called during run() when it is."""
        self.workers[worker].pending.append(done)
        self.workers[worker].send(message)

    def settle(self, seconds: float) -> None:
        """Wait at most so long for what was ordered; a dead worker ends it."""
        end = time.monotonic() + seconds
        with suppress(Failure, Refusal, OSError, RuntimeError):
            while time.monotonic() < end and any(callable(what) for worker in self.workers for what in worker.pending):
                self._collect()

    def _collect(self) -> None:
        """Take what answers there are; wait a little for the first."""
        ready = wait([worker.connection for worker in self.workers if worker.pending], timeout=0.5)
        for owner, worker in enumerate(self.workers):
            if worker.connection in ready:
                value, what = worker.receive(), worker.pending.popleft()
                if callable(what):
                    what()
                else:
                    self._results[what] = value, owner

    def _free(self, small: bool) -> _Worker | None:
        """The worker with the least to do, if a task may be sent to it."""
        loads = [sum(not callable(what) for what in worker.pending) for worker in self.workers]
        least = loads.index(min(loads))
        return self.workers[least] if loads[least] < (2 if small else 1) else None

    def close(self) -> None:
        """End the workers at once, whatever they do."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.close()


class Child:
    """`function(*args)` in a process of its own, whose memory goes back to the system."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self._worker = _Worker(lambda: (function(*args), lambda _: None))

    def result(self) -> Any:
        """Wait for it; what it raised is raised here."""
        try:
            return self._worker.receive()
        finally:
            self._worker.close()


def _serve(connection: Connection, make_handler: Callable[[], tuple[Any, Callable[[Any], Any]]], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm's warning goes to the whole group too
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        die_with_parent(parent)
    try:
        hello, handler = make_handler()
        connection.send(("hello", hello))
        while True:
            connection.send(("result", handler(connection.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except (Refusal, Failure, OSError, MemoryError) as error:
        connection.send(("error", error))
    except BaseException:  # noqa: BLE001 - a bug in a worker must reach the terminal of its parent
        connection.send(("error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}")))
