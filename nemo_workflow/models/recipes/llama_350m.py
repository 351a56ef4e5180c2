"""A Llama of GPT-3's size 350m that one GPU trains in hours. The same form as NeMo's own recipe modules."""

from __future__ import annotations

import nemo_run as run

from nemo_workflow.models.recipes import small_llama

NAME = "llama_350m"


def pretrain_recipe(
    dir: str | None = None, name: str = NAME, num_nodes: int = 1, num_gpus_per_node: int = 1
) -> run.Partial:
    """24 layers, hidden size 1024: 360 million parameters with GPT-2's vocabulary; half a million tokens per step.

    Depth, width, learning rate and batch are those of GPT-3 350m (Brown et al. 2020, table 2.1).
    """
    recipe = small_llama.recipe(
        dir, name, num_nodes, num_gpus_per_node,
        num_layers=24, hidden_size=1024, ffn_hidden_size=2816, num_attention_heads=16, num_query_groups=16,
        seq_length=2048, share_embeddings_and_output_weights=True,
    )  # fmt: skip
    recipe.data.global_batch_size = 256
    recipe.optim.config.lr = 3e-4
    recipe.optim.lr_scheduler.min_lr = 3e-5
    recipe.optim.lr_scheduler.warmup_steps = 500
    recipe.trainer.max_steps = 20_000
    return recipe
