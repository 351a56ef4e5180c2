"""Tiny models as the folders hold them whose code comes with the weights: Baichuan 2, ChatGLM.

Each is made of a model of transformers' own that computes the same; tensors and fields are renamed here as the published folders
name them. Nothing of the product's is used for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BAICHUAN_CODE = {
    "AutoConfig": "configuration_baichuan.BaichuanConfig",
    "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
}
CHATGLM_CODE = {
    "AutoConfig": "configuration_chatglm.ChatGLMConfig",
    "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
}
# ChatGLM's name of a tensor -> GLM's, q, k and v put together before
CHATGLM_NAMES = {
    "model.embed_tokens.": "transformer.embedding.word_embeddings.",
    "model.norm.": "transformer.encoder.final_layernorm.",
    "lm_head.": "transformer.output_layer.",
    "model.layers.": "transformer.encoder.layers.",
    ".self_attn.o_proj.": ".self_attention.dense.",
    ".self_attn.qkv.": ".self_attention.query_key_value.",
    ".mlp.gate_up_proj.": ".mlp.dense_h_to_4h.",
    ".mlp.down_proj.": ".mlp.dense_4h_to_h.",
}


def as_baichuan(folder: Path, unit: bool = True) -> None:
    """A Llama's folder as a Baichuan 2's; the rows of the output layer get the length one, but for `unit`."""
    tensors = _packed(_load(folder), "W_pack")
    if unit:
        rows = tensors["lm_head.weight"].double()
        tensors["lm_head.weight"] = (rows / rows.norm(dim=1, keepdim=True)).to(tensors["lm_head.weight"].dtype)
    config = json.loads((folder / "config.json").read_text())
    names = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
        "vocab_size", "rms_norm_eps", "initializer_range", "hidden_act", "tie_word_embeddings", "bos_token_id",
        "eos_token_id", "pad_token_id", "use_cache",
    )  # fmt: skip
    own = {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "auto_map": BAICHUAN_CODE,
        "_from_model_config": True,
    }
    own |= {"model_max_length": 4096, "torch_dtype": config["dtype"], "transformers_version": "4.29.2"}
    _save(folder, tensors, {**own, **{name: config[name] for name in names}})


def as_chatglm(folder: Path, **further: Any) -> None:
    """A GLM's folder as a ChatGLM's; `further` fields of config.json."""
    tensors = {}
    for name, tensor in _packed(_load(folder), "qkv").items():
        for theirs, own in CHATGLM_NAMES.items():
            name = name.replace(theirs, own)
        tensors[name] = tensor
    tensors["transformer.rotary_pos_emb.inv_freq"] = tensors["transformer.output_layer.weight"][0, :4].clone()
    config = json.loads((folder / "config.json").read_text())
    own = {
        "architectures": ["ChatGLMModel"], "model_type": "chatglm", "auto_map": CHATGLM_CODE, "add_bias_linear": False,
        "add_qkv_bias": True, "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True,
        "ffn_hidden_size": config["intermediate_size"], "fp32_residual_connection": False, "hidden_dropout": 0.0,
        "hidden_size": config["hidden_size"], "kv_channels": config["head_dim"], "layernorm_epsilon": config["rms_norm_eps"],
        "multi_query_attention": True, "multi_query_group_num": config["num_key_value_heads"],
        "num_attention_heads": config["num_attention_heads"], "num_layers": config["num_hidden_layers"],
        "original_rope": True, "padded_vocab_size": config["vocab_size"], "post_layer_norm": True, "rmsnorm": True,
        "seq_length": config["max_position_embeddings"], "use_cache": True, "torch_dtype": config["dtype"],
        "transformers_version": "4.30.2", "tie_word_embeddings": False, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    _save(folder, tensors, {**own, **further})


def _packed(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    """q, k and v of each layer below each other in one tensor."""
    import torch

    packed = {}
    for key, tensor in tensors.items():
        if ".q_proj." in key:
            parts = [tensors[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            packed[key.replace(".q_proj.", f".{name}.")] = torch.cat(parts)
        elif ".k_proj." not in key and ".v_proj." not in key:
            packed[key] = tensor
    return packed


def _load(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def _save(folder: Path, tensors: dict[str, Any], config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
