"""Commands as processes forked from one that has our light modules: arguments, files, variables and ends are a process's own.

A start from nothing takes 0.3 s of a core, mostly for imports. This one takes some 10 ms, and whatever the command says, raises or
leaves behind is the interpreter's own doing. What a start itself does (packages that are missing, Python's own flags, closed
streams) is shown by real starts: tests/test_pretrain_llm.py, tests/utils/test_startup.py.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parents[1]
# what the commands import on their way to a plan or a refusal
LIGHT = (
    "nemo_workflow.config.completion", "nemo_workflow.config.resolve", "nemo_workflow.conversion.command",
    "nemo_workflow.launch.corpus.command", "nemo_workflow.launch.dry_run", "nemo_workflow.launch.local",
    "nemo_workflow.models.catalog", "nemo_workflow.preprocess.run", "nemo_workflow.preprocess.train_tokenizer",
    "nemo_workflow.run_dir.branching", "nemo_workflow.runs.control", "nemo_workflow.training.resume",
)  # fmt: skip
HEAVY = ("torch", "transformers", "nemo", "nemo_run", "lightning", "megatron", "huggingface_hub", "wandb", "bokeh")
SIZE = struct.Struct("!i")


def run(
    words: Sequence[object],
    cwd: Path | str = REPOSITORY,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of Python with these words: a script and its arguments, -m with a module, or -c with a program."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(words, out, err, cwd, env)
        code = process.wait(timeout)
        for stream in (out, err):
            stream.seek(0)
        said = [stream.read().decode() for stream in (out, err)]
    return subprocess.CompletedProcess([*map(str, words)], code, *said)


def start(
    words: Sequence[object],
    out: IO[Any],
    err: IO[Any],
    cwd: Path | str = REPOSITORY,
    env: Mapping[str, str] | None = None,
) -> Forked:
    """Start it; one at a time. Nothing comes from its standard input."""
    variables = dict(os.environ if env is None else env)
    order = {
        "words": [os.fspath(word) if isinstance(word, Path) else str(word) for word in words],
        "cwd": str(cwd),
        "env": variables,
    }
    server = _Server.of_this_process()
    server.forget_the_last()
    with Path(os.devnull).open() as nothing:
        _send(server.socket, order, [nothing.fileno(), out.fileno(), err.fileno()])
    server.last = Forked(server, int(_receive(server.socket)[0]["pid"]))
    return server.last


class Forked:
    """A command that was started, as subprocess.Popen has it."""

    def __init__(self, server: _Server, pid: int):
        self._server, self.pid, self.returncode = server, pid, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._server.socket], [], [], 0)[0]:
            self.returncode = int(_receive(self._server.socket)[0]["code"])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, less than 0 for a signal; it is killed where it takes longer."""
        from tests.waiting import LIMIT  # not in the process that forks: its import path is to stay a command's

        timeout = LIMIT if timeout is None else timeout
        if self.returncode is None and not select.select([self._server.socket], [], [], timeout)[0]:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        code = self.poll()
        assert code is not None
        return code


class _Server:
    """The process that forks; it ends when this one has gone."""

    _of: tuple[int, _Server] | None = None

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, __file__, str(theirs.fileno())]
        self.process = subprocess.Popen(command, env=variables, cwd=REPOSITORY, pass_fds=[theirs.fileno()])
        theirs.close()
        self.last: Forked | None = None

    def forget_the_last(self) -> None:
        """End a command whose test failed before it had: its exit code is not the next one's answer."""
        if self.last is not None and self.last.poll() is None:
            os.kill(self.last.pid, signal.SIGKILL)
            self.last.wait()

    @classmethod
    def of_this_process(cls) -> _Server:
        if cls._of is None or cls._of[0] != os.getpid():
            cls._of = os.getpid(), cls()
        return cls._of[1]


def _send(to: socket.socket, message: Any, files: Sequence[int] = ()) -> None:
    data = json.dumps(message).encode()
    socket.send_fds(to, [SIZE.pack(len(data))], list(files))
    to.sendall(data)


def _receive(of: socket.socket, files: int = 0) -> tuple[Any, list[int]]:
    """A message and the files that came with it; raises EOFError where the other side has gone."""
    head, descriptors, _, _ = socket.recv_fds(of, SIZE.size, files)
    if not head:
        raise EOFError("the process that forks commands has gone")
    data = b""
    while len(data) < SIZE.unpack(head)[0]:
        data += of.recv(SIZE.unpack(head)[0] - len(data))
    return json.loads(data), list(descriptors)


def _serve(orders: socket.socket) -> dict[str, Any]:
    """Fork for each order; returns the order, in the child."""
    while True:
        try:
            order, files = _receive(orders, 3)
        except EOFError:
            os._exit(0)
        pid = os.fork()
        if not pid:
            orders.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            return dict(order)
        for file in files:
            os.close(file)
        _send(orders, {"pid": pid})
        _send(orders, {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


def _become(order: dict[str, Any], path: list[str]) -> None:
    """This process as Python leaves one before a program's first line."""
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    tempfile.tempdir = None
    words = order["words"]
    if words[0] in ("-m", "-c"):
        first = str(Path.cwd()) if words[0] == "-m" else ""
    else:
        first = str(Path(words[0]).resolve().parent)
    sys.path[:] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *path]
    sys.orig_argv[:] = [sys.executable, *words]
    sys.argv[:] = [words[0], *words[2:]] if words[0] in ("-m", "-c") else words


def _run(words: list[str]) -> None:
    """What Python does with these words; an exception that leaves it is the interpreter's to tell."""
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    else:
        runpy.run_path(words[0], run_name="__main__")


def _leave(ended: list[int]) -> None:
    """As the last of what Python does at its end, but for taking apart what has been imported, which copies its memory."""
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0] & 0xFF)


def _main() -> dict[str, Any]:
    """Import, serve, and come back as the child that is to run a command."""
    import gc
    import importlib

    from nemo_workflow.utils.processes import die_with_parent

    die_with_parent(os.getppid())
    orders = socket.socket(fileno=int(sys.argv[1]))
    for name in LIGHT:
        importlib.import_module(name)
    heavy = [name for name in HEAVY if name in sys.modules]
    assert not heavy and threading.active_count() == 1, heavy
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is pytest's
    gc.freeze()
    order = _serve(orders)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return order


if __name__ == "__main__":
    ended: list[int] = []
    atexit.register(_leave, ended)  # before whatever registers more: it is called after that
    own = sys.path[1:]
    sys.path[0] = str(REPOSITORY)
    order = _main()
    _become(order, own)
    try:
        _run(order["words"])
        ended.append(0)
    except SystemExit as end:
        ended.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except Exception:
        ended.append(1)
        raise
