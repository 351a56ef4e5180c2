"""One rank's training, from its plan to the last step. Importing this imports NeMo: `worker.load` comes first."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TextIO

import fiddle as fdl
from torch.distributed.checkpoint.api import CheckpointException

from nemo_workflow.backends import gpu
from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.training import (
    callbacks,
    exports,
    gpu_settings,
    learning_rate,
    liveness,
    nonfinite,
    profiling,
    recipe,
    sample_order,
    teardown,
    validation_sets,
)
from nemo_workflow.training.checkpointing import Checkpoints
from nemo_workflow.training.recipe_check import check_recipe
from nemo_workflow.training.resume import choose_checkpoint, identity_for


def run(plan: Plan, folder: Path, rank: int, console: TextIO) -> None:
    """Train as the plan says; `folder` is this start's, `console` takes the lines for the user's screen."""
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
        gpu.speed_up(log.note, plan.settings)
        gpu.sort_tokens(made.model.config)
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
        *([callbacks.SlowProducts(plan, log)] if plan.accelerator == "cpu" else []),
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
    try:
        pretrain()
    except CheckpointException as error:
        raise saver.failed_in_the_background(error) from error
    log.finish()
    newest = newest_whole(plan.folder / "checkpoints")[0] if exporter else None
    exports.after_slurm_training(exporter, plan, folder, newest)
