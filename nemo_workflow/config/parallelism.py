"""How the ranks are split: tensor, pipeline, virtual pipeline, context, expert and data parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_workflow.models.catalog import Recipe


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel groups. Ranks = tensor x pipeline x context x data."""

    nodes: int
    ranks_per_node: int
    tensor: int
    pipeline: int
    virtual_pipeline: int  # model chunks a stage, 1 is off
    context: int
    expert: int
    sequence_parallel: bool
    expert_tensor: int | None = None  # ranks an expert is split over; None: as tensor

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def data(self) -> int:
        return self.ranks // (self.tensor * self.pipeline * self.context)

    @property
    def expert_data(self) -> int:
        """Ranks that hold the same expert weights: what tensor x expert parallelism leaves of a stage's ranks."""
        return self.ranks // (self.pipeline * self.expert * (self.expert_tensor or self.tensor))

    def micro_batches(self, global_batch: int, micro_batch: int) -> int:
        """Micro batches that each data-parallel rank computes in a step."""
        return global_batch // (micro_batch * self.data)

    def bubble(self, global_batch: int, micro_batch: int) -> float:
        """Idle share of a step of the 1F1B schedule: (PP-1)/(VPP x m) of the work (Megatron-LM 2, arXiv 2104.04473)."""
        work = self.virtual_pipeline * max(1, self.micro_batches(global_batch, micro_batch))
        return (self.pipeline - 1) / (work + self.pipeline - 1)


def make_layout(settings: Any, recipe: Recipe | None, accelerator: str) -> Layout:
    """The layout that the flags ask for; expert parallelism is the recipe's where its flag is unset."""
    stock: dict[str, Any] = recipe.layout if recipe else {"expert": 1, "expert_tensor": None}
    ranks = settings.num_gpus
    if accelerator == "cpu" and "num_gpus" not in settings.given:
        ranks = 1
    return Layout(
        nodes=settings.num_nodes,
        ranks_per_node=ranks,
        tensor=settings.tensor_model_parallel_size,
        pipeline=settings.pipeline_model_parallel_size,
        virtual_pipeline=settings.virtual_pipeline_model_parallel_size,
        context=settings.context_parallel_size,
        expert=settings.expert_model_parallel_size or stock["expert"],
        sequence_parallel=settings.sequence_parallel,
        expert_tensor=stock["expert_tensor"],
    )


def layers_a_stage(sizes: Mapping[str, Any], stock: Mapping[str, Any], layout: Layout) -> list[int]:
    """Layers of each pipeline stage as Megatron splits them; raises ValueError with the reason where it can't.

    `stock` is the recipe's layout: its own first or last stage holds for its own number of stages only. A recipe may
    count embedding and loss as a layer each.
    """
    layers, stages = _layer_count(sizes), layout.pipeline
    extra_first, extra_last = int(stock["embedding_counts"]), int(stock["loss_counts"])
    first, last = stock["first_stage_layers"], stock["last_stage_layers"]
    if stages == 1:
        return [layers]
    if stages == stock["pipeline"] and (first or last):
        ends = [size for size in (first, last) if size]
        middle, rest = divmod(layers - sum(ends), stages - len(ends))
        if rest:
            raise ValueError(f"{layers - sum(ends)} layers over {stages - len(ends)} stages")
        return [first or middle, *[middle] * (stages - 2), last or middle]
    counted = layers + extra_first + extra_last
    if counted % stages:
        with_ends = " (embedding and loss count as a layer each)" if counted != layers else ""
        raise ValueError(f"{counted} layers{with_ends} over {stages} stages")
    split = [counted // stages] * stages
    split[0] -= extra_first
    split[-1] -= extra_last
    return split


def _layer_count(sizes: Mapping[str, Any]) -> int:
    """Layers that the pipeline is cut from: an encoder-decoder has both in it."""
    return int(sizes["num_layers"]) + int(sizes.get("encoder_num_layers") or 0)
