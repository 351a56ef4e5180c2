"""What every rank runs: plan -> recipe -> training. It is handed a plan and parses no command line.

nemo_run's launcher starts one process a rank and calls `train` in it. The rank's own output goes to a log of its own;
what stays on the launcher's stream are our plain lines.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import TextIO

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir.checkpoints import newest_whole, save_under_way
from nemo_workflow.run_dir.stopping import grace_seconds, tell_orphaned
from nemo_workflow.training import liveness
from nemo_workflow.utils import scratch, startup
from nemo_workflow.utils.errors import STOPPED, Failure, Refusal, missing_package
from nemo_workflow.utils.libraries import collector_paused


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
        startup.keep_caches_out_of_home()
        scratch.keep_sockets()
        liveness.stop_with_launcher(
            partial(grace_seconds, read),
            partial(save_under_way, read.folder / "checkpoints"),
            partial(tell_orphaned, folder),
        )
        _train(read, folder, rank, console)
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (0, STOPPED)):
            _leave_error(folder, rank, error)
        raise
    finally:
        lock.close()


def _train(plan: Plan, folder: Path, rank: int, console: TextIO) -> None:
    _quieten()
    with collector_paused():
        import fiddle as fdl

        from nemo_workflow.backends import cpu, deferred, gpu, optimizer_arguments, optimizer_gather
        from nemo_workflow.backends.patching import RANK

        deferred.install(RANK, plan.accelerator)
        if plan.accelerator == "cpu":
            cpu.install()
        else:
            gpu.install()
        optimizer_arguments.install()
        optimizer_gather.install()
        from nemo_workflow.training import (
            callbacks,
            exports,
            gpu_settings,
            learning_rate,
            nonfinite,
            profiling,
            recipe,
            sample_order,
            shard_writer,
            teardown,
            validation_sets,
        )
        from nemo_workflow.training.checkpointing import Checkpoints
        from nemo_workflow.training.recipe_check import check_recipe

        shard_writer.install()
        from nemo_workflow.training.resume import choose_checkpoint, identity_for

    log = callbacks.RunLog(plan, console, started=time.time(), heartbeat=liveness.Heartbeat(folder))
    if rank == 0:
        check_recipe(plan, folder, log.note)
    start = choose_checkpoint(plan, folder, rank, world=int(os.environ.get("WORLD_SIZE", "1")), say=log.note)
    identity = identity_for(plan, folder) if rank == 0 else {}
    callbacks.seed_everything(plan.settings.seed)
    if plan.settings.deterministic:
        callbacks.be_deterministic()
    made = recipe.build(plan, resume_from=str(start.path) if start else None)
    if (said := gpu_settings.follow_attention_variables(made.model.config)) and plan.accelerator == "gpu":
        log.note(said)
    if plan.accelerator == "gpu":
        if said := gpu_settings.without_deep_ep(made):
            log.note(said)
        gpu.speed_up(log.note, plan.settings.fp8_output_layer)
        gpu.complete_checkpoints(plan.settings.optim_cpu_offloading)
        gpu.update_in_pieces(made.optim.config)
    if plan.settings.profile:
        profiling.snapshot_when_out_of_memory(folder, rank)
    exporter = exports.Exports(plan, log, folder) if plan.settings.export_hf and rank == 0 else None
    fdl.update_callable(made.log.ckpt, Checkpoints)
    pretrain = fdl.build(made)
    trainer = pretrain.keywords["trainer"]
    # after the build: NeMo writes the trainer's own arguments into each checkpoint, and ours are not its concern
    trainer.callbacks = [
        log,  # first: a save is not part of a step's time
        *([callbacks.SlowProducts(log)] if plan.accelerator == "cpu" else []),
        learning_rate.Schedule(plan, log),
        callbacks.MissedValidation(plan),
        *([log.sources] if log.sources else []),
        *([validation_sets.ValidationSets(plan, log)] if plan.validation_sets else []),
        *([exporter] if exporter else []),
        *([profiling.Profiler(plan, log)] if plan.settings.profile and rank == 0 else []),
        nonfinite.LossScale(log) if plan.settings.precision == "16-mixed" else nonfinite.NanGuard(plan, log),
        *trainer.callbacks,
        callbacks.Stopper(log, folder),
    ]
    learning_rate.install(pretrain.keywords["optim"], plan)
    if log.sources:
        log.sources.attach(pretrain.keywords["model"])
    sample_order.arrange(pretrain.keywords["data"], plan, start)
    teardown.without_copies(trainer.strategy)
    saver = pretrain.keywords["log"].ckpt
    saver.attach(plan, log, identity, resumed_from=start.path if start else None)
    saver.exports = exporter if plan.settings.export_hf == "save" else None
    pretrain()
    log.finish()
    newest = newest_whole(plan.folder / "checkpoints")[0] if exporter else None
    exports.after_slurm_training(exporter, plan, folder, newest)


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
