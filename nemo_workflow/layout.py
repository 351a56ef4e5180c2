"""How the ranks are split: tensor, pipeline, virtual pipeline, context, expert and data parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_workflow.catalog import Recipe


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


def layers_a_stage(layers: int, layout: Layout) -> list[int]:
    """Layers of each pipeline stage, an even split; Megatron refuses any other unless told the first and last stage."""
    return [layers // layout.pipeline] * layout.pipeline
