"""A Llama of GPT-3's size 125m that one GPU trains in hours. The same form as NeMo's own recipe modules."""

from __future__ import annotations

import nemo_run as run

from nemo_workflow.models.recipes import small_llama

NAME = "llama_125m"


def pretrain_recipe(
    dir: str | None = None, name: str = NAME, num_nodes: int = 1, num_gpus_per_node: int = 1
) -> run.Partial:
    """12 layers, hidden size 768: 124 million parameters with GPT-2's vocabulary."""
    return small_llama.of_gpt3_size(
        dir,
        name,
        num_nodes,
        num_gpus_per_node,
        heads=12,
        lr=6e-4,
        min_lr=6e-5,
        num_layers=12,
        hidden_size=768,
        ffn_hidden_size=2048,
    )
