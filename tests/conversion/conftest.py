"""A whole, tiny Hugging Face folder, made without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nemo_workflow.conversion.hf_folder import INDEX

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "vocab_size": 11,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
SHAPES = {
    "model.embed_tokens.weight": (11, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.norm.weight": (8,),
    "lm_head.weight": (11, 8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama in two shards, without a tokenizer."""
    made = tmp_path / "hf"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    weight_map = {name: f"model-{i % 2 + 1:05d}-of-00002.safetensors" for i, name in enumerate(SHAPES)}
    for shard in sorted(set(weight_map.values())):
        tensors = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items() if weight_map[name] == shard}
        save_file(tensors, made / shard)
    (made / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return made
