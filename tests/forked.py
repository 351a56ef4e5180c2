"""Commands as processes forked from one that has our light modules: arguments, files, variables and ends are a process's own.

A start from nothing takes 0.3 s of a core, mostly for imports. This one takes some 10 ms, and whatever the command says, raises or
leaves behind is the interpreter's own doing. What a start itself does (packages that are missing, Python's own flags, closed
streams) is shown by real starts: tests/test_pretrain_llm.py, tests/utils/test_startup.py.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ClassVar, Protocol

REPOSITORY = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)
from tests.waiting import LIMIT  # noqa: E402 - found there

# what the commands import on their way to a plan or a refusal
LIGHT = (
    "nemo_workflow.config.completion", "nemo_workflow.config.resolve", "nemo_workflow.conversion.command",
    "nemo_workflow.launch.corpus.command", "nemo_workflow.launch.dry_run", "nemo_workflow.launch.local",
    "nemo_workflow.models.catalog", "nemo_workflow.preprocess.run", "nemo_workflow.preprocess.train_tokenizer",
    "nemo_workflow.run_dir.branching", "nemo_workflow.runs.control", "nemo_workflow.training.resume",
)  # fmt: skip
HEAVY = ("torch", "transformers", "nemo", "nemo_run", "lightning", "megatron", "huggingface_hub", "wandb", "bokeh")
SIZE = struct.Struct("!i")
VARIABLES = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # of the processes that fork


def run(
    words: Sequence[object],
    cwd: Path | str = REPOSITORY,
    env: Mapping[str, str] | None = None,
    timeout: float = LIMIT,
    loaded: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of Python with these words: a script and its arguments, -m with a module, or -c with a program."""
    return completed(functools.partial(start, words, cwd=cwd, env=env, loaded=loaded), words, timeout)


def completed(
    begin: Callable[[IO[Any], IO[Any]], Process], words: Sequence[object], timeout: float
) -> subprocess.CompletedProcess[str]:
    """What a command that `begin` starts with these streams has said, once it has ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = begin(out, err).wait(timeout)
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
    loaded: bool = False,
    typed: IO[Any] | None = None,
) -> Forked:
    """Start it, from the process that has NeMo where `loaded` asks for it. Nothing comes from its standard input but what is `typed`."""
    variables = dict(os.environ if env is None else env)
    order = {"words": [*map(str, words)], "cwd": str(cwd), "env": variables}
    server = _Server.of_this_process(loaded)
    ours, theirs = socket.socketpair()
    with Path(os.devnull).open() as nothing, theirs, server.lock:
        _send(server.socket, order, [theirs.fileno(), (typed or nothing).fileno(), out.fileno(), err.fileno()])
    try:
        return Forked(ours, int(_receive(ours)[0]["pid"]))
    except EOFError as error:
        raise EOFError(f"{error}: {server.last_words()}") from None


class Process(Protocol):
    """What `Forked` and subprocess.Popen have in common."""

    pid: int
    returncode: Any

    def send_signal(self, number: int) -> None: ...
    def kill(self) -> None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...


class Forked:
    """A command that was started, as subprocess.Popen has it. `told` says its exit code when it has ended."""

    def __init__(self, told: socket.socket, pid: int):
        self._told, self.pid = told, pid
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(_receive(self._told)[0]["code"])
            self._told.close()
        return self.returncode

    def wait(self, timeout: float = LIMIT) -> int:
        """Its exit code, less than 0 for a signal; it is killed where it takes longer."""
        if self.returncode is None and not select.select([self._told], [], [], timeout)[0]:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        code = self.poll()
        assert code is not None
        return code


class _Server:
    """The process that forks; it ends when this one has gone."""

    _of: ClassVar[dict[tuple[int, bool], _Server]] = {}
    _starting = threading.Lock()

    def __init__(self, loaded: bool) -> None:
        self.lock = threading.Lock()
        self.socket, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno()), *(["loaded"] if loaded else [])]
        # what the imports complain of is nobody's; it is told where they fail
        self.said = tempfile.TemporaryFile() if loaded else None  # noqa: SIM115 - lives as long as we
        self.process = subprocess.Popen(
            command, env=VARIABLES, cwd=REPOSITORY, pass_fds=[theirs.fileno()], stderr=self.said
        )
        theirs.close()
        atexit.register(self.end, os.getpid())

    @classmethod
    def of_this_process(cls, loaded: bool = False) -> _Server:
        with cls._starting:
            who = os.getpid(), loaded
            if who not in cls._of:
                cls._of[who] = cls(loaded)
            return cls._of[who]

    def last_words(self) -> str:
        if self.said is None:
            return ""
        self.said.seek(0)
        return self.said.read().decode(errors="replace")[-1000:]

    def end(self, owner: int) -> None:
        """So that the CPU time of what it has forked counts as this process's."""
        if os.getpid() == owner:
            self.socket.close()
            self.process.wait()


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
    """Fork for each order, and tell each one's end; returns the order, in the child."""
    ends, wake = socket.socketpair()
    for each in (ends, wake):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([orders, ends], [], [])
        if ends in ready:
            ends.recv(4096)
            _tell_ends(running)
            continue
        try:
            order, (told, *files) = _receive(orders, 4)
        except EOFError:
            os._exit(0)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, file in enumerate(files):
                os.dup2(file, number)
            for opened in (orders, ends, wake, *running.values()):
                opened.close()
            for file in (told, *files):
                os.close(file)
            return dict(order)
        for file in files:
            os.close(file)
        running[pid] = socket.socket(fileno=told)
        _send(running[pid], {"pid": pid})


def _tell_ends(running: dict[int, socket.socket]) -> None:
    """Reap all children that have ended, orphans too."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            with running.pop(found[0]) as told, contextlib.suppress(BrokenPipeError):
                _send(told, {"code": os.waitstatus_to_exitcode(found[1])})


def become(order: dict[str, Any], path: list[str]) -> None:
    """This process as Python leaves one before a program's first line."""
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    tempfile.tempdir = None
    words = order["words"]
    if "PYTHONSAFEPATH" in os.environ:
        first = []
    elif words[0] in ("-m", "-c"):
        first = [str(Path.cwd()) if words[0] == "-m" else ""]
    else:
        first = [str(Path(words[0]).resolve().parent)]
    sys.path[:] = [*first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *path]
    sys.orig_argv[:] = [sys.executable, *words]
    sys.argv[:] = [words[0], *words[2:]] if words[0] in ("-m", "-c") else words


def execute(words: list[str]) -> None:
    """What Python does with these words; an exception that leaves it is the interpreter's to tell."""
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    else:  # not by runpy: `inspect`, which torchrun asks for its callers' modules, takes a second there
        sys.modules["__main__"] = module = ModuleType("__main__")
        module.__file__ = str(Path(words[0]).absolute())
        exec(compile(Path(words[0]).read_bytes(), module.__file__, "exec"), module.__dict__)


def _leave(ended: list[int]) -> None:
    """As the last of what Python does at its end, but for taking apart what has been imported, which copies its memory."""
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0] & 0xFF)


def _main(path: list[str]) -> dict[str, Any]:
    """Import, serve, and come back as the child that is to run a command. `path` is where Python looks by itself."""
    import gc
    import importlib

    orders = socket.socket(fileno=int(sys.argv[1]))
    preloaded = importlib.import_module("tests.preloaded") if sys.argv[2:] else None
    if preloaded:
        preloaded.load(path)
    for name in LIGHT:
        importlib.import_module(name)
    if not preloaded:
        heavy = [name for name in HEAVY if name in sys.modules]
        assert not heavy and threading.active_count() == 1, heavy
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is pytest's
    gc.freeze()
    order = _serve(orders)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    become(order, path)
    if preloaded:
        preloaded.settle(order["words"])
    return order


if __name__ == "__main__":
    ended: list[int] = []
    atexit.register(_leave, ended)  # before whatever registers more: it is called after that
    own = sys.path[1:]
    order = _main(own)
    try:
        execute(order["words"])
        ended.append(0)
    except SystemExit as end:
        ended.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except Exception:
        ended.append(1)
        raise
