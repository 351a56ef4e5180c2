"""`python torchrun.py ARGUMENTS`: torchrun, whose ranks are forked with NeMo imported.

Importing torch, NeMo and Megatron takes most of a start, and each rank would do it. So this process does it once, and then is
torchrun as torch has it, but for one function: where that would start another Python, it forks itself.

A fork takes along no other thread and no CUDA. Where the imports have started one, or fail, the ranks are started as torchrun
starts them, and say themselves what is wrong. So they are on a GPU, where megatron-core's import loads torch's compiler, which
starts CUDA and 60 threads (seen on an H200). NEMO_WORKFLOW_FRESH_RANKS=1 asks for that elsewhere. Without the compiler,
torch 2.11's torch.cuda.is_available() starts CUDA all the same.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from nemo_workflow.backends import patching, registry
from nemo_workflow.config.plan import Plan
from nemo_workflow.training import liveness, rank, worker
from nemo_workflow.utils import startup
from nemo_workflow.utils.errors import STOPPED
from nemo_workflow.utils.folder_kinds import PLAN
from nemo_workflow.utils.processes import die_with_parent_process, outlive_parent

FRESH_RANKS = "NEMO_WORKFLOW_FRESH_RANKS"  # environment variable: "1", a Python for each rank
# for the imports, and not for the ranks: NumPy and numexpr would start threads, and torch.cuda.is_available() CUDA
ONLY_HERE = {"OPENBLAS_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
HARMLESS_THREADS = {"jemalloc_bg_thd"}  # of libraries that start them again after a fork
ALONE_SECONDS = 10  # that the other ranks of one that has failed may take to end; torchrun's own are 30
WAIT_SECONDS = 0.05  # between two looks at a rank that is waited for
# module -> the variable that its rank_zero_only.rank has been read from as it was imported
READ_AT_IMPORT = {
    "lightning_utilities.core.rank_zero": "RANK",
    "lightning.fabric.utilities.rank_zero": "RANK",
    "lightning_fabric.utilities.rank_zero": "RANK",
    "torchmetrics.utilities.prints": "LOCAL_RANK",
}


def main(arguments: list[str]) -> None:
    """Run torchrun with these arguments. The last is the folder of the start."""
    die_with_parent_process(os.getppid())  # until there are ranks: they save when the launcher dies
    given = {name: os.environ.get(name) for name in ONLY_HERE}
    os.environ.update({name: ONLY_HERE[name] for name, value in given.items() if value is None})
    plan = Plan.from_json((Path(arguments[-1]) / PLAN).read_text(encoding="utf-8"))
    forks = plan.accelerator == "cpu" and os.environ.get(FRESH_RANKS) != "1" and _import(plan)
    from torch.distributed.run import main as torchrun

    if forks:
        patching.replace(registry.find("launch.torchrun:forking"), functools.partial(forking, given=given))
    else:
        _restore(os.environ, given)
    patching.replace(registry.find("launch.torchrun:closing"))
    outlive_parent()
    code = 0
    if liveness.launcher_alive(os.environ[liveness.LAUNCHER]):
        code = rank.code_of(functools.partial(torchrun, arguments))
    rank.leave(code)


def _restore(variables: Any, given: dict[str, str | None]) -> None:
    for name, value in given.items():
        if value is None:
            variables.pop(name, None)


def closing(close: Callable[..., None]) -> Callable[..., None]:
    """torchelastic's end of the ranks: those that wait for a failed one in a collective take no signal, and are soon killed.

    Though a save be under way: it needs every rank to become whole (seen on two GPUs, whose 30 seconds brought nothing).
    """

    def close_ranks(self: Any, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        ranks = getattr(self, "subprocess_handlers", {}).values()
        failed = any(handler.proc.poll() not in (None, 0, STOPPED) for handler in ranks)
        close(self, death_sig, min(timeout, ALONE_SECONDS) if failed else timeout)

    return close_ranks


# -- before the fork --------------------------------------------------------------------------------------------------


def _import(plan: Plan) -> bool:
    """Import what the ranks need; returns whether they can be forked then. Says on stderr why not."""
    if startup.settle():
        return False
    startup.keep_caches_out_of_home()
    try:
        worker.load(plan.accelerator)
        from nemo_workflow.training import recipe

        recipe.stock(plan)  # imports what the model needs
    except Exception:  # noqa: BLE001 - a rank meets it again, and tells the user
        traceback.print_exc()
        return False
    why = _in_the_way()
    if why:
        print(f"the ranks are not forked: {why}", file=sys.stderr, flush=True)
    return not why


def _in_the_way() -> str:
    """What this process has that a fork would lose; empty where there is nothing."""
    names = set()
    for path in _others():
        with contextlib.suppress(OSError):  # it has just ended
            names.add(path.read_text(encoding="utf-8").strip())
    if names := names - HARMLESS_THREADS:
        return f"importing has started threads: {', '.join(sorted(names))}"
    return "importing has started CUDA" if _cuda_started() else ""


def _others() -> list[Path]:
    """The names of this process's other threads, as files."""
    return [path / "comm" for path in Path("/proc/self/task").iterdir() if int(path.name) != os.getpid()]


def _cuda_started() -> bool:
    """Whether this process has CUDA's device open, whichever library did it."""
    return any(target.startswith("/dev/nvidia-uvm") for target in _descriptors().values())


def _descriptors() -> dict[int, str]:
    """This process's open files, by their numbers."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[int(path.name)] = str(path.readlink())
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


# -- the fork ---------------------------------------------------------------------------------------------------------


def forking(start: Callable[..., Any], given: dict[str, str | None]) -> Callable[..., Any]:
    """torchelastic's start of one rank, as a fork; `given` are the variables to be put back in it. Imports torch."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    opened = set(_descriptors())

    class Forked(SubprocessHandler):  # type: ignore[misc]
        def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> Any:
            _restore(env, given)
            return Fork(functools.partial(_be_rank, args, env, (self._stdout, self._stderr), opened))

    def start_rank(**named: Any) -> Any:
        if named.get("numa_options") is not None or _cuda_started():
            return start(**named)
        return Forked(**named)

    return start_rank


class Fork:
    """A forked process, with what torchelastic asks of subprocess.Popen. `main` must not return, and gets the signal mask."""

    def __init__(self, main: Callable[[set[int]], NoReturn]):
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        # a signal that comes before the child has its own handlers waits until it has
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.pid = os.fork()
        if self.pid == 0:
            main(mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def poll(self) -> int | None:
        """The exit code as subprocess gives it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The same when it has ended. Raises TimeoutExpired."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"rank {self.pid}", timeout)
            time.sleep(WAIT_SECONDS)
        return code


def _be_rank(
    words: tuple[str, ...],
    variables: dict[str, str],
    streams: tuple[IO[str] | None, IO[str] | None],
    opened: set[int],
    mask: set[int],
) -> NoReturn:
    """In the child: what a Python that is started with these words and variables would have, do and end with."""
    code = 1
    try:
        os.setsid()
        for stream, number in zip(streams, (1, 2), strict=True):
            if stream is not None:
                os.dup2(stream.fileno(), number)
        _let_go(opened)
        os.environ.clear()
        os.environ.update(variables)
        for taken in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(taken, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.argv = list(words[words.index("-m") + 1 :])
        _unlike_the_others()
        code = rank.code_of(functools.partial(rank.main, words[-1]))
    except BaseException:  # noqa: BLE001 - nothing may go on into torchrun's own code
        traceback.print_exc()
    rank.leave(code)


def _let_go(kept: set[int]) -> None:
    """Point what torchrun has opened since at nothing: its store's sockets would live as long as the rank.

    The numbers stay taken: torchrun's objects are still here, and might close them.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, target in _descriptors().items():
        if number > 2 and number not in kept and number != nothing and not target.startswith("/dev/"):
            os.dup2(nothing, number, inheritable=False)


def _unlike_the_others() -> None:
    """Give this rank the chance numbers of its own, and the rank, that it would have had from its imports."""
    import numpy

    numpy.random.seed()  # Python's own are new after each fork
    for name, variable in READ_AT_IMPORT.items():
        if name in sys.modules:
            sys.modules[name].rank_zero_only.rank = int(os.environ[variable])
    if os.environ["RANK"] != "0" and "nemo.utils" in sys.modules:
        sys.modules["nemo.utils"].logging.remove_stream_handlers()


if __name__ == "__main__":
    main(sys.argv[1:])
