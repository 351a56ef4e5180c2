"""The losses on each --validation-dir, at every validation of NeMo's and before the first step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from nemo.lightning.data import WrappedDataLoader

from nemo_workflow.backends.patching import LibraryChanged, fits, wanted
from nemo_workflow.backends.registry import find
from nemo_workflow.config.plan import Plan
from nemo_workflow.training import sample_order
from nemo_workflow.training.callbacks import RunLog, Stopper


class ValidationSets(pl.Callback):
    """Goes over each set when Lightning has gone over --split's part, with the model as it is there: no gradients.

    NeMo's loop takes one validation set only: with several, its val_loss would have another name for each and its
    checkpoints the progress of all. So each goes through Megatron's step here, and Lightning knows nothing of them.
    """

    def __init__(self, plan: Plan, run_log: RunLog):
        self.plan = plan
        self.run_log = run_log
        self._loaders: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for one in self.plan.validation_sets:
            if one.name not in self._loaders:
                self._loaders[one.name] = self._loader(trainer, one)
            with unlogged(trainer.datamodule.data_sampler):
                loss = self._loss(trainer, module, iter(self._loaders[one.name]), self.plan.batches_of(one))
            self.run_log.set_losses[one.name] = loss if math.isfinite(loss) else None

    def _loader(self, trainer: pl.Trainer, one: Any) -> Any:
        """Micro batches of this rank, the same at each pass."""
        data = trainer.datamodule
        cache, mask = str(data.index_mapping_dir), data.create_attention_mask
        dataset = sample_order.validation_set(self.plan, data.tokenizer, one, cache, mask)
        # no processes of its own: between two validations they would only wait
        return trainer.strategy.process_dataloader(WrappedDataLoader(mode="validation", dataset=dataset, num_workers=0))

    def _loss(self, trainer: pl.Trainer, module: pl.LightningModule, batches: Iterator[Any], count: int) -> float:
        """Nats per token over `count` global batches, the same on all ranks."""
        total = 0.0
        for _ in range(count):
            with trainer.precision_plugin.val_step_context():
                loss = trainer.strategy.model.validation_step(batches).detach().float()
            if parallel_state.get_pipeline_model_parallel_world_size() > 1:  # 0 but on the last stage
                dist.all_reduce(loss, group=parallel_state.get_pipeline_model_parallel_group())
            total += float(loss)
            for callback in trainer.callbacks:
                if isinstance(callback, RunLog | Stopper):  # the watch for hung ranks, and a stop asked for
                    callback.on_validation_batch_end(trainer, module)
        return total / count


@contextlib.contextmanager
def unlogged(sampler: Any) -> Iterator[None]:
    """NeMo's sampler doesn't log the global batch in this block, which only Lightning's own loop can take."""
    patch = find("training.validation_sets:unlogged")
    fits(patch)
    if not hasattr(sampler, "output_log"):
        raise LibraryChanged(f"{patch.library} {wanted(patch)}: {type(sampler).__name__} has no output_log any more")
    before, sampler.output_log = sampler.output_log, False
    try:
        with torch.no_grad():
            yield
    finally:
        sampler.output_log = before
