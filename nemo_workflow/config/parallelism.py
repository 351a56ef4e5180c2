"""How the ranks are split: tensor, pipeline, virtual pipeline, context, expert and data parallelism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    first_stage_layers: int | None = None  # None: the recipe's, or as many as the others
    last_stage_layers: int | None = None

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
        first_stage_layers=settings.first_stage_layers,
        last_stage_layers=settings.last_stage_layers,
    )


def ends_of(stock: Mapping[str, Any], layout: Layout) -> tuple[int | None, int | None]:
    """Layers of the first and of the last stage where they have a number of their own. A recipe's hold for its own number of stages only."""
    own = layout.pipeline == stock["pipeline"]
    first = layout.first_stage_layers or (stock["first_stage_layers"] if own else None)
    return first, layout.last_stage_layers or (stock["last_stage_layers"] if own else None)


def layers_a_stage(sizes: Mapping[str, Any], stock: Mapping[str, Any], layout: Layout) -> list[int]:
    """Layers of each pipeline stage as Megatron splits them; raises ValueError with the reason where it can't.

    `stock` is the recipe's layout. It may count embedding and loss as a layer each, where no end has a number of its own.
    """
    layers, stages = _layer_count(sizes), layout.pipeline
    extra_first, extra_last = int(stock["embedding_counts"]), int(stock["loss_counts"])
    first, last = ends_of(stock, layout)
    if stages == 1:
        return [layers]
    if first or last:
        left, others = left_for_others(layers, stages, first, last)
        if left < others or left % (others or left + 1):
            raise ValueError(f"{left} layers over {others} stages")
        middle = left // others if others else 0
        return [first or middle, *[middle] * (stages - 2), last or middle]
    counted = layers + extra_first + extra_last
    if counted % stages:
        with_ends = " (embedding and loss count as a layer each)" if counted != layers else ""
        raise ValueError(f"{counted} layers{with_ends} over {stages} stages")
    split = [counted // stages] * stages
    split[0] -= extra_first
    split[-1] -= extra_last
    return split


def left_for_others(layers: int, stages: int, first: int | None, last: int | None) -> tuple[int, int]:
    """(layers that the ends leave, stages that share them)."""
    ends = [size for size in (first, last) if size]
    return layers - sum(ends), stages - len(ends)


def chunks_of(layers: int, virtual: int) -> list[int]:
    """Layers of each of a stage's model chunks; where they don't divide, the first ones have one more."""
    each, more = divmod(layers, virtual)
    return [each + (number < more) for number in range(virtual)]


def enough_for_chunks(stages: Sequence[int], virtual: int) -> bool:
    """Whether each chunk of each stage gets a layer; the last one of all has the loss, and needs none."""
    return min(stages[:-1]) >= virtual and stages[-1] >= max(1, virtual - 1)


def pieces(stages: Sequence[int], virtual: int, predicted: int = 0) -> str:
    """Stages in the words of megatron-core's pipeline_model_parallel_layout: `Ettt|tt|tt|tL` is 5 and 3 layers, in two chunks each.

    `predicted` is the number of layers for multi-token prediction, which go with the loss.
    """
    words = ["t" * chunks_of(layers, virtual)[chunk] for chunk in range(virtual) for layers in stages]
    return "|".join(["E" + words[0], *words[1:]]) + "m" * predicted + "L"


def _layer_count(sizes: Mapping[str, Any]) -> int:
    """Layers that the pipeline is cut from: an encoder-decoder has both in it."""
    return int(sizes["num_layers"]) + int(sizes.get("encoder_num_layers") or 0)
