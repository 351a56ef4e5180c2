"""Steps, epochs, tokens, learning rates and validation interval of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nemo_workflow.models.catalog import Recipe
from nemo_workflow.utils.console import counted

STYLE = "minus_sqrt"  # 1 - sqrt: the best of the usual forms in arXiv 2405.18392
OURS = ("linear", "constant", "wsd")  # schedules that no recipe of NeMo's has


@dataclass(frozen=True)
class Schedule:
    """All in steps, learning rates without unit."""

    max_steps: int
    warmup_steps: int
    constant_steps: int
    lr: float
    min_lr: float
    val_check_interval: int
    save_every: int
    limit_val_batches: int  # batches a validation, 0 is none
    kind: str | None = None  # --lr-schedule; None: the recipe's own
    decay_steps: int = 0  # of wsd: the last steps of the run
    decay_style: str = ""  # of wsd
    first_step: int = 0  # the step of the checkpoint that a --decay-from run begins with

    @property
    def steps(self) -> int:
        """Steps that the run makes itself."""
        return self.max_steps - self.first_step

    def validates(self, step: int) -> bool:
        """Whether a validation follows this step."""
        return step > 0 and step % self.val_check_interval == 0 and self.limit_val_batches > 0


@dataclass(frozen=True)
class Branch:
    """The checkpoint that --decay-from names, as the run that wrote it left it."""

    step: int
    rate: float  # learning rate of the step after it
    lr: float  # the run's highest
    warmup_steps: int
    kind: str | None
    digest: str  # of its manifest

    def as_identity(self) -> dict[str, Any]:
        """What the branch's own checkpoints remember."""
        return dict(vars(self))


def make_schedule(
    settings: Any, recipe: Recipe, train_samples: int, val_samples: int, branch: Branch | None = None
) -> Schedule:
    """Flags where given, else the recipe's own values cut to the length of the run.

    Samples are those of one epoch. Unset --max-steps is one epoch. Warm-up and validation interval are at most a
    tenth of the run, and a validation sees no sample twice (but at least one batch). A branch keeps the rate and the
    warm-up of the run that it leaves.
    """
    stock = recipe.fields
    batch = max(1, settings.global_batch_size)
    max_steps = settings.max_steps if settings.max_steps is not None else max(1, train_samples // batch)
    kind, decay = settings.lr_schedule, 0
    if branch is not None:
        kind, (max_steps, decay) = "wsd", _end_of_branch(settings, branch)
    elif kind == "wsd":
        decay = settings.decay_steps or max(1, max_steps // 10)
    tenth = max(1, (max_steps - branch.step if branch else max_steps) // 10)
    lr = settings.lr if settings.lr is not None else stock["optim.config.lr"]
    interval = settings.val_check_interval or min(stock["trainer.val_check_interval"], tenth)
    warmup = branch.warmup_steps if branch else _warmup(settings, stock, max_steps)
    return Schedule(
        max_steps=max_steps,
        warmup_steps=warmup,
        constant_steps=0 if kind in OURS else _constant(settings, stock, max_steps - warmup),
        lr=branch.rate if branch else lr,
        min_lr=lr if kind == "constant" else _min_lr(settings, stock, lr),
        val_check_interval=interval,
        save_every=settings.save_every or interval,
        limit_val_batches=min(stock["trainer.limit_val_batches"], max(1, val_samples // batch)) if val_samples else 0,
        kind=kind,
        decay_steps=decay,
        decay_style=(settings.decay_style or STYLE) if kind == "wsd" else "",
        first_step=branch.step if branch else 0,
    )


def _end_of_branch(settings: Any, branch: Branch) -> tuple[int, int]:
    """Last step and decay steps: --decay-steps, else what is left of --max-steps, else a tenth of the steps made."""
    if settings.decay_steps:
        return branch.step + settings.decay_steps, settings.decay_steps
    if settings.max_steps is not None:
        return settings.max_steps, settings.max_steps - branch.step
    tenth = max(1, branch.step // 10)
    return branch.step + tenth, tenth


def _warmup(settings: Any, stock: dict[str, Any], max_steps: int) -> int:
    if settings.warmup_steps is not None:
        return int(settings.warmup_steps)
    ratio = stock.get("optim.lr_scheduler.warmup_ratio") or 0
    return int(min(stock["optim.lr_scheduler.warmup_steps"] or int(ratio * max_steps), max_steps // 10))


def _constant(settings: Any, stock: dict[str, Any], after_warmup: int) -> int:
    """Steps at the lowest rate after the decay; one step of decay is left."""
    if settings.constant_steps is not None:
        return int(settings.constant_steps)
    return int(min((stock.get("optim.lr_scheduler.constant_steps") or 0), max(0, after_warmup - 1)))


def _min_lr(settings: Any, stock: dict[str, Any], lr: float) -> float:
    """--min-lr; else the recipe's, never above a tenth of a rate that was given."""
    if settings.min_lr is not None:
        return float(settings.min_lr)
    usual = float(stock["optim.lr_scheduler.min_lr"])
    return min(usual, lr / 10) if settings.lr is not None else usual


def rate_at(schedule: Schedule, step: int) -> float:
    """Learning rate of a step from 0: linear warm-up, then the form that --lr-schedule names.

    cosine is NeMo's CosineAnnealing; wsd begins its decay `decay_steps` before the end, as megatron-core's does.
    """
    warmup, constant = schedule.warmup_steps, schedule.constant_steps
    if warmup and step <= warmup:
        return schedule.lr * (step / warmup if constant else (step + 1) / (warmup + 1))
    if schedule.kind == "constant":
        return schedule.lr
    begin = schedule.max_steps - schedule.decay_steps if schedule.kind == "wsd" else warmup
    decay = schedule.decay_steps if schedule.kind == "wsd" else schedule.max_steps - warmup - constant
    if step > begin + decay:
        return schedule.min_lr
    style = schedule.decay_style or ("linear" if schedule.kind == "linear" else "cosine")
    left = left_of_decay(style, (step - begin) / max(1, decay))
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * left


def left_of_decay(style: str, done: float) -> float:
    """Share of the way from highest to lowest rate that is left, `done` from 0 to 1 (megatron-core 0.15.3,
    OptimizerParamScheduler.get_lr, lr_wsd_decay_style). Before the decay begins it is 1.
    """
    done = max(0.0, done)
    if style == "linear":
        return 1.0 - done
    if style == "minus_sqrt":
        return 1.0 - math.sqrt(done)
    if style == "exponential":
        return 2.0 * math.pow(0.5, done) - 1.0
    return 0.5 * (1 + math.cos(math.pi * done))


def rate_words(schedule: dict[str, Any]) -> str:
    """What the learning rate does, for people; `schedule` holds the fields of Schedule as plan.json has them."""
    kind, warmup, low = schedule.get("kind"), schedule["warmup_steps"], f"{schedule['min_lr']:.3g}"
    first = schedule.get("first_step") or 0
    text = f"{schedule['lr']:.3g}" + (
        f" as after step {first}" if first else f" after {counted(warmup, 'step')} of warm-up"
    )
    if kind == "constant":
        return f"{text}, then constant"
    if kind == "wsd":
        last = f"down to {low} over the last {counted(schedule['decay_steps'], 'step')} ({schedule['decay_style']})"
        return f"{text}, {last}" if first else f"{text}, then constant, {last}"
    form = f" ({kind})" if kind else ""
    constant = f", constant for {counted(schedule['constant_steps'], 'step')}" if schedule["constant_steps"] else ""
    return f"{text}, down to {low}{form}{constant}"
