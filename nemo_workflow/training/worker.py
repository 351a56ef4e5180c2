"""What every rank runs: plan -> recipe -> training. It is handed a plan and parses no command line.

launch/torchrun.py, or srun, starts one process a rank, which calls `train`. The rank's own output goes to a log of its own;
what stays on the launcher's stream are our plain lines.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nemo_workflow.config.plan import Plan
from nemo_workflow.data import open_files
from nemo_workflow.run_dir.checkpoints import save_under_way
from nemo_workflow.run_dir.stopping import grace_seconds, tell_orphaned
from nemo_workflow.training import liveness
from nemo_workflow.utils import scratch, startup
from nemo_workflow.utils.errors import STOPPED, Failure, Refusal, missing_package
from nemo_workflow.utils.libraries import collector_paused

END_SECONDS = 10  # that a rank which has failed may take to end


def train(plan: str, attempt: str) -> None:
    """Train as the plan (JSON) says. `attempt` is the folder of this start's logs, the same for all ranks."""
    rank = int(os.environ.get("RANK", "0"))
    folder = Path(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    console = _own_log(folder / f"rank{rank}.log")
    liveness.dump_stacks_on_signal(sys.stderr)
    read = Plan.from_json(plan)
    lock = liveness.hold_ranks_lock(read.folder)
    liveness.end_children_with_rank()
    try:
        if problems := startup.settle():
            raise Refusal(problems)
        if short := open_files.too_many(open_files.least_of(read.pairs)):  # of a Slurm job's node
            raise Refusal(f"{read.pairs:,} pairs need {short}")
        open_files.allow(open_files.most_of(read.pairs))
        startup.keep_caches_out_of_home()
        scratch.keep_sockets()
        liveness.stop_with_launcher(
            functools.partial(grace_seconds, read),
            functools.partial(save_under_way, read.folder / "checkpoints"),
            functools.partial(tell_orphaned, folder),
        )
        load(read.accelerator)(read, folder, rank, console)
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (0, STOPPED)):
            _leave_error(folder, rank, error)
            _leave_groups()
        raise
    finally:
        lock.close()


@functools.cache
def load(accelerator: str) -> Callable[[Plan, Path, int, TextIO], None]:
    """Patch and import all that a rank needs, whichever rank it is; returns what trains."""
    _quieten()
    with collector_paused():
        from nemo_workflow.backends import cpu, deferred, gpu, numpy_two, optimizer_arguments, optimizer_gather
        from nemo_workflow.backends.patching import RANK

        deferred.install(RANK, accelerator)
        if accelerator == "cpu":
            cpu.install()
        else:
            gpu.install()
        optimizer_arguments.install()
        optimizer_gather.install()
        numpy_two.install()
        from nemo_workflow.training import session, shard_writer

        shard_writer.install()
    return session.run


def _own_log(path: Path) -> TextIO:
    """Send this process's stdout and stderr (C libraries too) to a file; returns the stream they went to before."""
    sys.stdout.flush()
    sys.stderr.flush()
    console = os.fdopen(os.dup(1), "w", buffering=1)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return console


def _quieten() -> None:
    """Drop warnings that a user can't fix; everything else goes to the rank's log."""
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # NeMo forks data loader workers


def _leave_groups() -> None:
    """End this rank soon, whatever its end waits for.

    Lightning and NeMo destroy NCCL's process groups as a process ends, which waits for the other ranks, and they may be in a
    collective and wait for this one. If its end waits for something else, the stacks go to the rank's log.
    """
    for name in ("lightning.fabric.utilities.distributed", "nemo.lightning.pytorch.strategies.utils"):
        if destroy := getattr(sys.modules.get(name), "_destroy_dist_connection", None):
            atexit.unregister(destroy)
    faulthandler.dump_traceback_later(END_SECONDS, exit=True)


def _leave_error(folder: Path, rank: int, error: BaseException) -> None:
    """Write the rank's own error where the launcher looks for it; where it needs no traceback, that is in the log."""
    trace = "".join(traceback.format_exception(error))
    sys.stderr.write(trace)
    missing = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
    text = f"{error}\n" if isinstance(error, Failure | Refusal) else f"{missing}\n" if missing else trace
    path = folder / f"rank{rank}.error"
    aside = path.with_suffix(".error.tmp")
    try:
        aside.write_text(f"{time.time()}\n{text}", encoding="utf-8")
        aside.replace(path)
    except OSError:  # a full disk: an empty file, which takes no room, still tells which rank it was
        path.touch()
