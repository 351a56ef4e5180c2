"""A Llama of a few million parameters that a CPU trains in minutes. The same form as NeMo's own recipe modules."""

from __future__ import annotations

import nemo_run as run
from nemo.collections.llm.gpt.model.llama import LlamaConfig, LlamaModel
from nemo.collections.llm.recipes import llama32_1b

NAME = "llama_tiny"


def model() -> run.Config[LlamaModel]:
    """4 layers, hidden size 256: 5.3 million parameters with a vocabulary of 4096."""
    config = run.Config(
        LlamaConfig,
        num_layers=4,
        hidden_size=256,
        ffn_hidden_size=768,
        num_attention_heads=8,
        num_query_groups=4,
        seq_length=256,
        rotary_base=10_000,
        share_embeddings_and_output_weights=False,
        make_vocab_size_divisible_by=128,
    )
    return run.Config(LlamaModel, config=config)


def pretrain_recipe(
    dir: str | None = None, name: str = NAME, num_nodes: int = 1, num_gpus_per_node: int = 1
) -> run.Partial:
    """Everything of llama32_1b's recipe but the model and a learning rate for its size."""
    recipe = llama32_1b.pretrain_recipe(dir=dir, name=name, num_nodes=num_nodes, num_gpus_per_node=num_gpus_per_node)
    recipe.model = model()
    recipe.data.seq_length = 256
    recipe.data.global_batch_size = 16
    recipe.optim.config.lr = 1e-3
    recipe.optim.lr_scheduler.min_lr = 1e-4
    recipe.optim.lr_scheduler.warmup_steps = 20
    recipe.trainer.max_steps = 200
    recipe.trainer.val_check_interval = 50
    recipe.trainer.limit_val_batches = 8
    return recipe
