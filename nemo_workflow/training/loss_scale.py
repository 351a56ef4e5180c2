"""The loss scale of 16-mixed, which NeMo 2.7.3 leaves out."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from megatron.core.utils import get_model_config


class LossScale(pl.Callback):
    """Lets megatron-core multiply the loss by the optimizer's scale before the backward pass.

    NeMo tells the optimizer alone of the scale. Gradients would then be divided by what they were never multiplied
    with: with its first scale of 2**32 a run moves no weight, and says nothing.
    """

    def __init__(self, run_log: Any):
        self.run_log = run_log

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        optimizer = trainer.optimizers[0].mcore_optimizer
        for chunk in trainer.strategy.megatron_parallel:
            get_model_config(chunk).grad_scale_func = optimizer.scale_loss
            chunk.module.ddp_config.check_for_nan_in_grad = False  # it would end the run at the first overflow
        power = math.log2(float(optimizer.get_loss_scale()))
        self.run_log.note(
            f"loss scale 2^{power:g}: while gradients overflow it is halved, and such steps change no weight"
        )
