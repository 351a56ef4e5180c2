"""Steps, epochs, tokens, warm-up and validation interval of a run."""

from __future__ import annotations

from dataclasses import dataclass


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
    limit_val_batches: int
