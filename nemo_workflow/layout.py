"""How the ranks are split: tensor, pipeline, virtual pipeline, context, expert and data parallelism."""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def data(self) -> int:
        return self.ranks // (self.tensor * self.pipeline * self.context)

    def micro_batches(self, global_batch: int, micro_batch: int) -> int:
        """Micro batches that each data-parallel rank computes in a step."""
        return global_batch // (micro_batch * self.data)
