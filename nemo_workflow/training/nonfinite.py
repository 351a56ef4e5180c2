"""Losses and gradients that are no numbers, caught before the weights are updated.

Megatron's own check (ddp.check_for_nan_in_grad) raises in the backward pass of one rank, where the others can't be
told. Its place is used to note what each rank's own gradients are before they are summed; the ranks compare notes when
the optimizer is about to step, and stop or skip together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import get_model_config

from nemo_workflow.backends.patching import replace, replace_on
from nemo_workflow.backends.registry import find
from nemo_workflow.config.run_config import Plan
from nemo_workflow.training import sample_order
from nemo_workflow.training.checkpointing import Checkpoints
from nemo_workflow.training.spikes import steps_to_skip
from nemo_workflow.utils.errors import Failure


class NotFinite(Failure):
    """A loss or gradient was NaN or infinite; the weights are those of the step before."""


class NanGuard(pl.Callback):
    """Stops before an update with a NaN or infinite gradient, or leaves it out, as --on-nan says.

    Not for 16-mixed, where infinite gradients are part of finding the loss scale and Megatron leaves such steps out
    itself: LossScale is there in its place.
    """

    def __init__(self, plan: Plan, run_log: Any):
        self.plan = plan
        self.run_log = run_log
        self.allowed = steps_to_skip(plan.settings.on_nan or "stop")
        self.skipped = 0
        self.bad: torch.Tensor | None = None  # on the gradients' device: asking costs no synchronisation
        self.group: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        optimizer = trainer.optimizers[0].mcore_optimizer
        self.group = dist.new_group(backend="gloo")
        replace(find("training.nonfinite:noted"), partial(noted, self))
        for chunk in trainer.strategy.megatron_parallel:
            chunk.module.ddp_config.check_for_nan_in_grad = True
        told = partial(self._bad_ranks_told, trainer)
        replace_on(find("training.nonfinite:with_word_of_ranks"), optimizer, partial(with_word_of_ranks, told))

    def _bad_ranks_told(self, trainer: pl.Trainer) -> bool:
        """Whether any rank's gradients are no numbers; raises NotFinite unless the step may be left out."""
        own = torch.tensor([int(self.bad is not None and bool(self.bad.item()))])
        self.bad = None
        flags = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(flags, own, group=self.group)
        ranks = [rank for rank, flag in enumerate(flags) if flag.item()]
        if not ranks:
            return False
        self.run_log.write_pending()
        self.skipped += 1
        step = trainer.global_step + 1
        samples: list[Any] = [None] * len(flags)
        dist.all_gather_object(samples, self._own_samples(trainer) if own.item() else None, group=self.group)
        facts = {"step": step, "ranks": ranks, "samples": {str(rank): samples[rank] for rank in ranks}}
        skip = self.skipped <= self.allowed
        self.run_log.event("nonfinite", **facts, skipped=self.skipped if skip else None)
        text = f"step {step}: a gradient is NaN or infinite on rank {', '.join(map(str, ranks))}"
        if skip:
            self.run_log.note(f"{text}; step left out, {self.skipped} of {self.allowed} (--on-nan skip)")
            return True
        saver = trainer.checkpoint_callback
        assert isinstance(saver, Checkpoints)
        saver.last_save = True
        saver.save_before_step(trainer)
        raise NotFinite(
            f"{text}, before the update; the weights of step {step - 1} are saved.\n"
            + "".join(f"samples of rank {rank}: {_listed(samples[rank])}\n" for rank in ranks)
            + "mend the data or lower --lr; --on-nan skip N leaves out up to N such steps"
        )

    def _own_samples(self, trainer: pl.Trainer) -> list[dict[str, Any]]:
        """The samples of this rank in the step under way, by Megatron's sampler: micro batches dealt to ranks in turn."""
        data = trainer.datamodule
        consumed = data.state_dict()["consumed_samples"]
        micro, ranks = data.micro_batch_size, parallel_state.get_data_parallel_world_size()
        first = consumed + parallel_state.get_data_parallel_rank() * micro
        numbers = [
            first + block * micro * ranks + at
            for block in range(data.global_batch_size // (micro * ranks))
            for at in range(micro)
        ]
        dataset = data._train_ds
        if not isinstance(dataset, sample_order.OrderedDataset | sample_order.OrderedBlend):
            return [{"sample": number} for number in numbers]
        return [sample_order.describe(dataset, number) for number in numbers]


class LossScale(pl.Callback):
    """For 16-mixed, in NanGuard's place: lets megatron-core multiply the loss by the optimizer's scale before the backward pass.

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


def noted(guard: NanGuard, original: Any) -> Any:
    """Keeps in `guard` whether a gradient of this rank is no number, for Megatron's `check_grads`."""

    def check_grads(group: Any, check_for_nan_or_inf: bool, check_for_large: bool) -> None:
        for bucket in group.buckets:
            bad = ~torch.isfinite(bucket.grad_data.norm(p=2))
            guard.bad = bad if guard.bad is None else guard.bad | bad

    return check_grads


def with_word_of_ranks(told: Callable[[], bool], prepare: Any) -> Any:
    """An optimizer's `prepare_grads` that also finds what `told` finds."""

    def prepare_grads() -> bool:
        found = prepare()
        return told() or found

    return prepare_grads


def _listed(samples: list[dict[str, Any]], most: int = 16) -> str:
    shown = [str(entry["sample"]) for entry in samples[:most]]
    more = f" and {len(samples) - most} more" if len(samples) > most else ""
    return ", ".join(shown) + more + " (sources in the run's metrics.jsonl)"
