"""Commands as processes forked from one that has imported torch, NeMo and Megatron, and so are the Pythons that they start.

What a command trains, converts or samples is the real thing: its own process with real ranks below it, real Megatron, real
files. Only the imports, five seconds of a core for each process, have been done before. Where a command starts Python (nemo_run
its torchrun, a run its report), subprocess forks it too instead of executing it: a child of the same parent, with the streams,
variables, folder, session and signals that it was to have.

`run` and `start` start a command from nothing where a fork would not be the same: another Python or other flags of it, other
sources of ours, modules of a test's own on the import path, variables that have been read at the imports, and threads of a library's
in the process that starts it (those of Python's own wait). A test of starts, kills, memory, imports or versions should not come here at all.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread
import contextlib
import contextvars
import ctypes
import filecmp
import functools
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from tests import forked
from tests.forked import REPOSITORY
from tests.waiting import LIMIT

FAULTS = REPOSITORY / "tests" / "e2e" / "run" / "faults"  # its sitecustomize is run in each process, as Python would
# Read by a library as it is imported or loaded; those of AGAIN are read again here, or while a command runs. torch's compiler,
# which pytest's own imports set variables for, compiles nothing here.
AT_IMPORT = re.compile(
    r"(ATEN|GOMP|HF|HUGGINGFACE|HUGGING_FACE|KMP|LC|LD|LIGHTNING|MALLOC|MKL|NEMO|NUMEXPR|OMP|OPENBLAS|PL|PYTHON|PYTORCH|TORCH"
    r"|TRANSFORMERS|XDG)_?.*|HOME|LANG|PATH_INFO|USE_.*"
)
AGAIN = re.compile(
    r"OMP_NUM_THREADS|NEMORUN_HOME|NEMO_WORKFLOW_LAUNCHER|PYTHON(PATH|UNBUFFERED|SAFEPATH|DONTWRITEBYTECODE)|HF_HUB_OFFLINE"
    r"|TORCH(X|ELASTIC|INDUCTOR|_COMPILE)_.*"
)
# imported beside what a rank needs: by the launcher, torchrun, conversions, samples, evaluations
MODULES = (
    "torch.distributed.run", "nemo_run", "nemo_workflow.launch.torchrun", "nemo_workflow.training.recipe",
    "nemo.collections.llm.gpt.model.llama", "transformers.models.llama.modeling_llama", "nemo_workflow.conversion.nemo_folder",
)  # fmt: skip
FRESH = {"NEMO_WORKFLOW_FRESH_RANKS", "OLD_CPU"}  # who sets one of these means a start from nothing
EXECUTE = subprocess._fork_exec  # type: ignore[attr-defined]


def run(
    command: Sequence[object],
    cwd: Path | str = REPOSITORY,
    env: Mapping[str, str] | None = None,
    timeout: float = LIMIT,
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run of a command that begins with this Python's path; its output is kept, and no exit code raises."""
    return forked.completed(functools.partial(start, command, cwd=cwd, env=env), command, timeout)


def start(
    command: Sequence[object],
    out: IO[Any],
    err: IO[Any],
    cwd: Path | str = REPOSITORY,
    env: Mapping[str, str] | None = None,
    typed: IO[Any] | None = None,
) -> forked.Process:
    """Start it with these streams, forked where that is the same."""
    words = [*map(str, command)]
    variables = dict(os.environ if env is None else env)
    if why := unfit(words, variables, cwd, [forked.VARIABLES]) or _why_none():
        _tell(why, words)
        return subprocess.Popen(
            words, cwd=cwd, env=variables, stdin=typed or subprocess.DEVNULL, stdout=out, stderr=err
        )
    return forked.start(words[1:], out, err, cwd, variables, loaded=True, typed=typed)


@functools.cache
def _why_none() -> str:
    """Why no command can be forked on this machine: with CUDA, imports start threads."""
    try:
        forked.run(["-c", ""], loaded=True)
    except EOFError as error:
        return str(error)
    return ""


def unfit(words: list[str], variables: Mapping[str, str], cwd: Path | str, known: Sequence[Mapping[str, str]]) -> str:
    """Why a command must be started from nothing; empty where it may be forked. `known` are the variables of the imports."""
    if words[0] != sys.executable or len(words) < 2:
        return "another program"
    if words[1].startswith("-") and words[1] not in ("-m", "-c"):
        return "flags of Python's own"
    for name in {*variables, *(name for each in known for name in each)}:
        given = variables.get(name)
        if name in FRESH or (
            AT_IMPORT.fullmatch(name) and not AGAIN.fullmatch(name) and given not in [each.get(name) for each in known]
        ):
            return f"{name}={given}"
    places = [place for place in variables.get("PYTHONPATH", "").split(os.pathsep) if place]
    strange = [place for place in places if not _known(Path(cwd, place))]
    return f"{strange[0]} on the import path" if strange else ""


def _known(place: Path) -> bool:
    """Whether a folder of the import path holds nothing but our own sources as they are here."""
    if place.resolve() in (FAULTS, REPOSITORY):
        return True
    there = [path for path in place.iterdir() if path.suffix == ".py" or path.is_dir()] if place.is_dir() else []
    ours = REPOSITORY / "nemo_workflow"
    return not there or ([path.name for path in there] == [ours.name] and _sources(there[0]) == _sources(ours) and all(
        filecmp.cmp(there[0] / name, ours / name) for name in _sources(ours)
    ))  # fmt: skip


def _sources(package: Path) -> set[Path]:
    return {path.relative_to(package) for path in package.rglob("*.py")}


def _tell(why: str, words: Sequence[str]) -> None:
    if place := os.environ.get("FORKED_LOG"):
        with Path(place).open("a", encoding="utf-8") as stream:
            stream.write(f"{why}: {' '.join(words)[:200]}\n")


# -- in the process that forks ------------------------------------------------------------------------------------------


class _Loaded:
    """What was there when the imports were done."""

    path: list[str]  # where Python looks by itself
    given: dict[str, str]  # variables before
    set_by_rank: dict[str, str]  # those that a rank's imports set
    at_exit: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []  # noqa: RUF012 - of one process
    opened: dict[int, str]
    threads: int


def load(path: list[str]) -> None:
    """Import what the commands need; raises RuntimeError where that has started threads or CUDA, which a fork would lose."""
    _Loaded.path, _Loaded.given = path, dict(os.environ)
    register = atexit.register
    atexit.register = _noted(register)  # type: ignore[assignment]
    from nemo_workflow.launch import torchrun

    os.environ.update(torchrun.ONLY_HERE)
    before = dict(os.environ)
    from nemo_workflow.training import worker

    worker.load("cpu")
    _Loaded.set_by_rank = {name: value for name, value in os.environ.items() if before.get(name) != value}
    for name in MODULES:
        importlib.import_module(name)
    atexit.register = register  # type: ignore[assignment]
    if why := torchrun._in_the_way():
        raise RuntimeError(f"nothing can be forked: {why}")
    _nemo_runs_home()
    _Loaded.opened, _Loaded.threads = torchrun._descriptors(), sys.modules["torch"].get_num_threads()


def _noted(register: Callable[..., Any]) -> Callable[..., Any]:
    def note(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        _Loaded.at_exit.append((function, arguments, keywords))
        return register(function, *arguments, **keywords)

    return note


def _nemo_runs_home() -> None:
    """nemo_run reads NEMORUN_HOME at its import, which in a launcher comes when it is set."""
    from nemo_run import config

    def home() -> str:
        return os.environ.get("NEMORUN_HOME", os.path.expanduser("~/.nemo_run"))  # noqa: PTH111 - as it was

    config.get_nemorun_home.__code__ = home.__code__


# -- in a forked process ------------------------------------------------------------------------------------------------


def settle(words: list[str]) -> None:
    """The rest of what a start would have made of the variables; they are in os.environ."""
    import numpy

    ctypes.CDLL(None).prctl(15, Path(sys.executable).name.encode())  # PR_SET_NAME
    numpy.random.seed()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    _set_threads(int(threads) if threads.isdecimal() else _Loaded.threads)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if os.environ.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    if words[0].endswith("/launch/torchrun.py"):
        os.environ.update(_Loaded.set_by_rank)
        for name in list(logging.Logger.manager.loggerDict):
            if name.startswith("torch.distributed.") and "LOGLEVEL" in os.environ:
                logging.getLogger(name).setLevel(os.environ["LOGLEVEL"])
    _set_offline(os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"))
    subprocess._fork_exec = fork_or_execute  # type: ignore[attr-defined]
    for name in ("sitecustomize", "old_cpu"):
        sys.modules.pop(name, None)
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")


def _set_threads(count: int) -> None:
    """As OMP_NUM_THREADS would have; torch.set_num_threads would start a pool of them, and a fork would lose it."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    for library in set(re.findall(r"/\S*libgomp\S*", maps)):
        ctypes.CDLL(library).omp_set_num_threads(count)


def _set_offline(offline: bool) -> None:
    """As HF_HUB_OFFLINE would have: the libraries keep it under these names."""
    for module in list(sys.modules.values()):
        for name in ("HF_HUB_OFFLINE", "_is_offline_mode"):
            if isinstance(vars(module).get(name), bool):
                setattr(module, name, offline)


def fork_or_execute(
    args: Sequence[Any], executables: Any, close_fds: bool, keep: Any, cwd: Any, env: Any,
    p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int, told: int, tell: int,
    restore_signals: bool, new_session: bool, group: int, gid: Any, gids: Any, uid: Any, umask: int, preexec: Any, *more: Any,
) -> int:  # fmt: skip
    """What subprocess calls to start a child; returns its number."""
    words = [os.fsdecode(word) for word in args]
    folder = os.fsdecode(cwd) if cwd is not None else os.getcwd()  # noqa: PTH109 - as text
    pairs = (os.fsdecode(pair).partition("=") for pair in env) if env is not None else None
    variables = dict(os.environ) if pairs is None else {name: value for name, _, value in pairs}
    known = [_Loaded.given, _Loaded.given | _Loaded.set_by_rank]
    why = "a folder or user to be refused" if not os.path.isdir(folder) or (gid, gids, uid) != (None,) * 3 else ""  # noqa: PTH112
    why = why or _threads()
    why = why or unfit(words, variables, folder, known)
    if why:
        _tell(why, words)
        return int(EXECUTE(args, executables, close_fds, keep, cwd, env, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
                           told, tell, restore_signals, new_session, group, gid, gids, uid, umask, preexec, *more))  # fmt: skip
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    thread = threading.get_native_id()
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    try:
        for number, given in enumerate((p2cread, c2pwrite, errwrite)):
            if given != -1:
                os.dup2(given, number)
        _leave_behind(close_fds, {*keep} - {tell})
        if new_session:
            os.setsid()
        if group >= 0:
            os.setpgid(0, group)
        if umask >= 0:
            os.umask(umask)
        if preexec is not None:
            preexec()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _outlast(thread)
        order = {"words": words[1:], "cwd": folder, "env": variables}
        contextvars.Context().run(_be, order)
    except BaseException:  # noqa: BLE001 - nothing may go on into the parent's code
        traceback.print_exc()
    os._exit(1)


def _threads() -> str:
    """What a fork would not know of; a thread of Python's that has just ended may still be seen."""
    end = time.monotonic() + 0.2
    while len(os.listdir("/proc/self/task")) > threading.active_count():  # noqa: PTH208 - by the hundred
        if time.monotonic() > end:
            return "threads of a library's"
        time.sleep(0.005)
    return ""


def _outlast(thread: int) -> None:
    """Return when the parent's thread that forked has gone, as it has in the time that a start takes.

    nemo_run starts torchrun in a thread for this alone, and the kernel takes its end for the parent's (PR_SET_PDEATHSIG).
    """
    parent, end = os.getppid(), time.monotonic() + 5
    while thread != parent and Path(f"/proc/{parent}/task/{thread}").exists() and time.monotonic() < end:
        time.sleep(0.005)
    concurrent.futures.thread._threads_queues.clear()  # type: ignore[attr-defined]  # which Python would join at its end


def _leave_behind(close_fds: bool, keep: set[int]) -> None:
    """What a program that is executed does not get from its parent: files, handlers of signals, calls at the end.

    The numbers of the files stay taken: the parent's objects are still here, and might close them.
    """
    from nemo_workflow.launch import torchrun

    nothing = os.open(os.devnull, os.O_RDWR)
    for number, target in torchrun._descriptors().items():
        kept = number in keep or not (close_fds or not os.get_inheritable(number))
        if number > 2 and number != nothing and not kept and _Loaded.opened.get(number) != target:
            os.dup2(nothing, number, inheritable=False)
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and not isinstance(signal.getsignal(number), signal.Handlers):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # the parent's to do
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    for function, arguments, keywords in _Loaded.at_exit:
        atexit.register(function, *arguments, **keywords)
    sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__


def _be(order: dict[str, Any]) -> NoReturn:
    """Run a command to its end, and end as Python would; what has been imported is not taken apart."""
    from nemo_workflow.training import rank

    forked.become(order, _Loaded.path)
    settle(order["words"])
    interrupted = False

    def main() -> None:
        nonlocal interrupted
        try:
            forked.execute(order["words"])
        except KeyboardInterrupt:
            interrupted = True
            raise

    code = rank.code_of(main)
    if interrupted:
        atexit.register(_end_by_interrupt)
    rank.leave(code)


def _end_by_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
