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
