"""A Llama of a few million parameters that a CPU trains in minutes. The same form as NeMo's own recipe modules."""

from __future__ import annotations

import nemo_run as run

from nemo_workflow.models.recipes import small_llama

NAME = "llama_tiny"


def pretrain_recipe(
    dir: str | None = None, name: str = NAME, num_nodes: int = 1, num_gpus_per_node: int = 1
) -> run.Partial:
    """4 layers, hidden size 256: 5.3 million parameters with a vocabulary of 4096."""
    recipe = small_llama.recipe(
        dir, name, num_nodes, num_gpus_per_node,
        num_layers=4, hidden_size=256, ffn_hidden_size=768, num_attention_heads=8, num_query_groups=4,
        seq_length=256, share_embeddings_and_output_weights=False,
    )  # fmt: skip
    recipe.data.global_batch_size = 16
    recipe.optim.config.lr = 1e-3
    recipe.optim.lr_scheduler.min_lr = 1e-4
    recipe.optim.lr_scheduler.warmup_steps = 20
    recipe.trainer.max_steps = 200
    recipe.trainer.val_check_interval = 50
    recipe.trainer.limit_val_batches = 8
    return recipe
