"""Steps, epochs, tokens, warm-up and validation interval of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nemo_workflow.models.catalog import Recipe


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

    def validates(self, step: int) -> bool:
        """Whether a validation follows this step."""
        return step > 0 and step % self.val_check_interval == 0 and self.limit_val_batches > 0


def make_schedule(settings: Any, recipe: Recipe, train_samples: int, val_samples: int) -> Schedule:
    """Flags where given, else the recipe's own values cut to the length of the run.

    Samples are those of one epoch. Unset --max-steps is one epoch. Warm-up and validation interval are at most a
    tenth of the run, and a validation sees no sample twice (but at least one batch).
    """
    stock = recipe.fields
    batch = max(1, settings.global_batch_size)
    max_steps = settings.max_steps if settings.max_steps is not None else max(1, train_samples // batch)
    tenth = max(1, max_steps // 10)
    lr = settings.lr if settings.lr is not None else stock["optim.config.lr"]
    interval = settings.val_check_interval or min(stock["trainer.val_check_interval"], tenth)
    warmup = settings.warmup_steps
    if warmup is None:
        ratio = stock.get("optim.lr_scheduler.warmup_ratio") or 0
        warmup = min(stock["optim.lr_scheduler.warmup_steps"] or int(ratio * max_steps), max_steps // 10)
    room = max(0, max_steps - warmup - 1)  # one step of decay is left
    constant = (
        settings.constant_steps
        if settings.constant_steps is not None
        else min((stock.get("optim.lr_scheduler.constant_steps") or 0), room)
    )
    return Schedule(
        max_steps=max_steps,
        warmup_steps=warmup,
        constant_steps=constant,
        lr=lr,
        min_lr=settings.min_lr if settings.min_lr is not None else _min_lr(stock, lr, settings.lr is not None),
        val_check_interval=interval,
        save_every=settings.save_every or interval,
        limit_val_batches=min(stock["trainer.limit_val_batches"], max(1, val_samples // batch)) if val_samples else 0,
    )


def _min_lr(stock: dict[str, Any], lr: float, given: bool) -> float:
    """The recipe's, never above a tenth of a rate that was given."""
    usual = float(stock["optim.lr_scheduler.min_lr"])
    return min(usual, lr / 10) if given else usual


def rate_at(schedule: Schedule, step: int) -> float:
    """Learning rate of a step from 0: linear warm-up, cosine decay, constant (NeMo's CosineAnnealing)."""
    warmup, constant = schedule.warmup_steps, schedule.constant_steps
    if warmup and step <= warmup:
        return schedule.lr * (step / warmup if constant else (step + 1) / (warmup + 1))
    decay = schedule.max_steps - warmup - constant
    if step > warmup + decay:
        return schedule.min_lr
    share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, decay)))
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * share
