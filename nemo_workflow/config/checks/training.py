"""Optimizer and schedule, fields that a recipe lacks, the checkpoint to start from."""

from __future__ import annotations

from collections.abc import Iterator

from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.flags import TABLE
from nemo_workflow.config.optimizer_states import bf16_moments
from nemo_workflow.config.schedule import OURS, Branch
from nemo_workflow.utils.console import counted


def _optimizer(run: Run) -> str:
    return run.settings.optimizer or (run.recipe.fields["optim.config.optimizer"] if run.recipe else "adam")


def optimizer_flags(run: Run) -> Iterator[str]:
    """OptimizerParamScheduler (megatron-core 0.15.3) asserts min_lr <= max_lr and a warm-up shorter than the run;
    the rest would do nothing in silence.
    """
    schedule = run.schedule
    idle = run.given("adam_beta1", "adam_beta2") if _optimizer(run) == "sgd" else []
    if idle:
        yield f"{', '.join(idle)}: does nothing with --optimizer sgd; leave it out"
    if schedule is None:
        return
    if schedule.min_lr > schedule.lr:
        yield f"--min-lr {schedule.min_lr:g}: above the learning rate {schedule.lr:g}; lower --min-lr or raise --lr"
    if schedule.warmup_steps > schedule.max_steps:
        yield (
            f"--warmup-steps {schedule.warmup_steps}: longer than the run of {counted(schedule.max_steps, 'step')};"
            " lower --warmup-steps or raise --max-steps"
        )
    elif schedule.warmup_steps + schedule.constant_steps > schedule.max_steps:
        yield (
            f"--constant-steps {schedule.constant_steps}: with {counted(schedule.warmup_steps, 'step')} of warm-up longer than the"
            f" run of {counted(schedule.max_steps, 'step')}; lower --constant-steps or raise --max-steps"
        )
    if schedule.val_check_interval > schedule.max_steps:
        yield (
            f"--val-check-interval {schedule.val_check_interval}: longer than the run of {counted(schedule.max_steps, 'step')}, so"
            " it would never validate; lower it"
        )


def schedule_flags(run: Run) -> Iterator[str]:
    """Flags of the learning rate that its schedule has no use for, or that a branch can't take."""
    schedule, settings = run.schedule, run.settings
    kind = "wsd" if settings.decay_from else settings.lr_schedule
    if kind != "wsd" and (idle := run.given("decay_steps", "decay_style")):
        yield f"{', '.join(idle)}: only with --lr-schedule wsd or --decay-from; add one of them or leave it out"
    if kind in OURS and settings.constant_steps:
        yield f"--constant-steps: does nothing with --lr-schedule {kind}, which ends at its lowest rate; leave it out"
    if kind == "constant" and settings.min_lr is not None:
        yield "--min-lr: --lr-schedule constant never goes down; leave it out, or decay with wsd or --decay-from"
    if schedule is None:
        return
    if kind == "wsd" and schedule.warmup_steps + schedule.decay_steps > schedule.max_steps:
        yield (
            f"--decay-steps {schedule.decay_steps}: with {counted(schedule.warmup_steps, 'step')} of warm-up longer than the"
            f" run of {counted(schedule.max_steps, 'step')}; lower it or raise --max-steps"
        )
    if run.branch:
        yield from _branch_flags(run, run.branch)


def _branch_flags(run: Run, branch: Branch) -> Iterator[str]:
    """A branch takes step, rate and warm-up from its checkpoint."""
    settings = run.settings
    if settings.lr_schedule not in (None, "wsd", branch.kind):
        yield f"--lr-schedule {settings.lr_schedule}: a run with --decay-from decays from its first step; leave it out"
    if settings.lr is not None and settings.lr not in (branch.lr, branch.rate):
        yield f"--lr {settings.lr:g}: the decay begins at the checkpoint's own rate, {branch.rate:g}; leave it out"
    if settings.warmup_steps not in (None, branch.warmup_steps):
        yield f"--warmup-steps {settings.warmup_steps}: the warm-up of the checkpoint's run is over; leave it out"
    if settings.decay_steps is None and settings.max_steps is not None and settings.max_steps <= branch.step:
        yield (
            f"--max-steps {settings.max_steps}: the checkpoint of --decay-from is at step {branch.step}; give"
            " --decay-steps, or a larger number"
        )


def optimizer_offloading(run: Run) -> Iterator[str]:
    """megatron-core's optimizer on the host is Adam, over the shards of the distributed optimizer."""
    settings = run.settings
    if not settings.optim_cpu_offloading:
        if run.given("optim_cpu_offloading_frac"):
            yield "--optim-cpu-offloading-frac: does nothing without --optim-cpu-offloading; add it or leave this out"
        return
    if settings.disable_dist_optim:
        yield "--optim-cpu-offloading: needs the distributed optimizer; leave --disable-dist-optim out"
    if _optimizer(run) == "sgd":
        yield "--optim-cpu-offloading: only Adam's states can be offloaded; leave it or --optimizer sgd out"


def optimizer_precision(run: Run) -> Iterator[str]:
    """megatron-core's precision-aware optimizer is Adam over the shards of the distributed optimizer (OptimizerConfig.__post_init__).

    With weights in fp8 it takes other ways (OptimizerConfig.fp8_recipe), and trained wrongly over four data parallel ranks: the
    gradient's norm was 1e15 in the fourth step.
    """
    settings, recipe = run.settings, run.recipe
    if recipe is None or not bf16_moments(settings, recipe):
        return
    needs = {"the distributed optimizer": "--disable-dist-optim" if settings.disable_dist_optim else ""}
    needs["Adam"] = "--optimizer sgd" if _optimizer(run) == "sgd" else ""
    name = f"--optimizer-precision {settings.optimizer_precision}"
    for need, flag in needs.items():
        if flag and settings.optimizer_precision:
            yield f"{name}: needs {need}; leave it or {flag} out"
        elif flag:
            yield (
                f"{flag}: {recipe.name} keeps Adam's moments in bf16, which needs {need}; leave it out or add"
                " --optimizer-precision fp32"
            )
    if not settings.optimizer_precision:
        return
    if settings.optim_cpu_offloading:
        yield f"{name}: the optimizer on the host computes in fp32; leave it or --optim-cpu-offloading out"
    precision = settings.precision or recipe.precision["precision"]
    if precision != "bf16-mixed":
        yield f"{name}: goes with --precision bf16-mixed, not with {precision}; leave one of them out"
    if settings.fp8 or (settings.precision is None and recipe.precision["fp8"]):
        yield f"{name}: trains wrongly with weights in fp8 on several GPUs; leave it or --fp8 out"


def gradients_precision(run: Run) -> Iterator[str]:
    """Megatron's gradient buffers are in bf16 or fp32; the optimizer on the host was never tried with the former."""
    settings, recipe = run.settings, run.recipe
    if not settings.grad_reduce_in_bf16 or recipe is None:
        return
    precision = settings.precision or recipe.precision["precision"]
    if precision != "bf16-mixed":
        yield f"--grad-reduce-in-bf16: goes with --precision bf16-mixed, not with {precision}; leave one of them out"
    if settings.optim_cpu_offloading:
        yield "--grad-reduce-in-bf16: not proven with an optimizer on the host; leave it or --optim-cpu-offloading out"


def lacking_fields(run: Run) -> Iterator[str]:
    """Fiddle raises in the ranks for a field that the recipe's class of configuration lacks."""
    if run.recipe is None:
        return
    for option in TABLE:
        missing = [path for path in option.sets if path in run.recipe.lacks]
        if missing and option.attribute in run.settings.given:
            yield f"--{option.name}: recipe {run.recipe.name} has no field {missing[0]}; leave it out"


def checkpoint_fits(run: Run) -> Iterator[str]:
    """The architecture of --nemo-model against --model-name."""
    model, recipe = run.nemo_model, run.recipe
    if model and recipe and model.model_class != recipe.model_class:
        yield (
            f"--nemo-model {run.settings.nemo_model}: holds a {model.model_class}, but --model-name {recipe.name} is a"
            f" {recipe.model_class}; name a recipe of its family or leave --model-name out"
        )
