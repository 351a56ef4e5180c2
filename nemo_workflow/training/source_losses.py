"""The training loss of each source of a blend, over the steps since the last line of the log.

Megatron's blend says of each sample which source it is from; NeMo's data step drops that, and is handed it on here. Each rank sums
its micro batches' losses where they are; the ranks' sums are added at the steps of the log only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from nemo_workflow.config.plan import Plan
from nemo_workflow.models import catalog

ID = "dataset_id"  # as Megatron's BlendedDataset calls it
MOST = 20  # sources: more curves than that nobody reads
FAMILIES = ("gpt", "ssm")  # whose samples are GPT's


def of(plan: Plan) -> SourceLosses | None:
    """The callback of a run with several sources; None of another."""
    fits = 1 < len(plan.sources) <= MOST and catalog.find(plan.model_name).family in FAMILIES
    return SourceLosses(names(plan)) if fits else None


def names(plan: Plan) -> list[str]:
    """What each source is called: the file's name without _text_document, numbered where it is not the only one."""
    plain = [Path(source.pair.prefix).name.removesuffix("_text_document") for source in plan.sources]
    count = Counter(plain)
    return [f"{name}-{number}" if count[name] > 1 else name for number, name in enumerate(plain, 1)]


class SourceLosses(pl.Callback):
    """Sums losses and tokens by source; NeMo calls it after each micro batch."""

    def __init__(self, names: list[str]):
        self.names = names
        self._sums: torch.Tensor | None = None  # [losses and tokens, sources]

    def attach(self, model: Any) -> None:
        """Let the training's micro batches say their samples' sources. Before NeMo has the model, which it may copy."""

        def training_data_step(batches: Iterator[Any]) -> Any:
            batch = next(batches)
            kept = model.data_step(iter([batch]))
            kept[ID] = (batch[0] if isinstance(batch, tuple) else batch).get(ID)
            return kept

        model.training_data_step = training_data_step

    def on_megatron_microbatch_end(self, step: Any, batch: Any, output: Any, forward_callback: Any) -> None:
        """NeMo's hook. A validation's micro batches have no source, an earlier stage's no losses."""
        sources, mask = batch.get(ID), batch.get("loss_mask")
        if sources is None or mask is None or not torch.is_tensor(output) or output.shape != mask.shape:
            return
        with torch.no_grad():
            counted = mask.float()
            pair = torch.stack([(output.detach().float() * counted).sum(1), counted.sum(1)]).double()
            where = sources.long().to(pair.device, non_blocking=True)
            self._on(pair.device).index_add_(1, where, pair)

    def taken(self) -> torch.Tensor:
        """The sums of all ranks since the last call, all of which call this. Ranks that share a stage count a sample alike."""
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        sums, self._sums = self._on(device), None
        dist.all_reduce(sums)
        return sums

    def losses(self, sums: torch.Tensor) -> dict[str, float | None]:
        """Nats per token of each source, of what `taken` gave; None where no sample was seen of it or it is no number."""
        found = {}
        for name, (loss, tokens) in zip(self.names, sums.T.tolist(), strict=True):
            mean = loss / tokens if tokens else float("nan")
            found[name] = round(mean, 6) if mean - mean == 0 else None
        return found

    def _on(self, device: torch.device) -> torch.Tensor:
        if self._sums is None:
            self._sums = torch.zeros((2, len(self.names)), dtype=torch.float64, device=device)
        return self._sums
