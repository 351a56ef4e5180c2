"""What our small Llama recipes share: NeMo's recipe of Llama 3.2 1B with another model in it."""

from __future__ import annotations

from typing import Any

import nemo_run as run
from nemo.collections.llm.gpt.model.llama import LlamaConfig, LlamaModel
from nemo.collections.llm.recipes import llama32_1b


def recipe(
    dir: str | None, name: str, num_nodes: int, num_gpus_per_node: int, *, seq_length: int, **sizes: Any
) -> run.Partial:
    """llama32_1b's recipe with a model of these sizes; rotary base 10,000, as for short sequences."""
    made = llama32_1b.pretrain_recipe(dir=dir, name=name, num_nodes=num_nodes, num_gpus_per_node=num_gpus_per_node)
    config = run.Config(
        LlamaConfig, seq_length=seq_length, rotary_base=10_000, make_vocab_size_divisible_by=128, **sizes
    )
    made.model = run.Config(LlamaModel, config=config)
    made.data.seq_length = seq_length
    return made


def of_gpt3_size(
    dir: str | None,
    name: str,
    num_nodes: int,
    num_gpus_per_node: int,
    *,
    heads: int,
    lr: float,
    min_lr: float,
    **sizes: Any,
) -> run.Partial:
    """Depth, width, learning rate and batch of a model of GPT-3's (Brown et al. 2020, table 2.1): half a million tokens per step."""
    made = recipe(
        dir, name, num_nodes, num_gpus_per_node, num_attention_heads=heads, num_query_groups=heads, seq_length=2048,
        share_embeddings_and_output_weights=True, **sizes,
    )  # fmt: skip
    made.data.global_batch_size = 256
    made.optim.config.lr = lr
    made.optim.lr_scheduler.min_lr = min_lr
    made.optim.lr_scheduler.warmup_steps = 500
    made.trainer.max_steps = 20_000
    return made
