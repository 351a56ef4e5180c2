"""A Llama of GPT-3's size 350m that one GPU trains in hours. The same form as NeMo's own recipe modules."""

from __future__ import annotations

import nemo_run as run

from nemo_workflow.models.recipes import small_llama

NAME = "llama_350m"


def pretrain_recipe(
    dir: str | None = None, name: str = NAME, num_nodes: int = 1, num_gpus_per_node: int = 1
) -> run.Partial:
    """24 layers, hidden size 1024: 360 million parameters with GPT-2's vocabulary."""
    return small_llama.of_gpt3_size(
        dir,
        name,
        num_nodes,
        num_gpus_per_node,
        heads=16,
        lr=3e-4,
        min_lr=3e-5,
        num_layers=24,
        hidden_size=1024,
        ffn_hidden_size=2816,
    )
