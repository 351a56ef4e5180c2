"""A Llama of GPT-3's size 125m that one GPU trains in hours. The same form as NeMo's own recipe modules."""

from __future__ import annotations

import nemo_run as run

from nemo_workflow.models.recipes import small_llama

NAME = "llama_125m"


def pretrain_recipe(
    dir: str | None = None, name: str = NAME, num_nodes: int = 1, num_gpus_per_node: int = 1
) -> run.Partial:
    """12 layers, hidden size 768: 124 million parameters with GPT-2's vocabulary; half a million tokens per step.

    Depth, width, learning rate and batch are those of GPT-3 125m (Brown et al. 2020, table 2.1).
    """
    recipe = small_llama.recipe(
        dir, name, num_nodes, num_gpus_per_node,
        num_layers=12, hidden_size=768, ffn_hidden_size=2048, num_attention_heads=12, num_query_groups=12,
        seq_length=2048, share_embeddings_and_output_weights=True,
    )  # fmt: skip
    recipe.data.global_batch_size = 256
    recipe.optim.config.lr = 6e-4
    recipe.optim.lr_scheduler.min_lr = 6e-5
    recipe.optim.lr_scheduler.warmup_steps = 500
    recipe.trainer.max_steps = 20_000
    return recipe
