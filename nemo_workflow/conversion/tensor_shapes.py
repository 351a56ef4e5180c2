"""The shapes that a config.json gives to the tensors of a Hugging Face model, by their names. No torch here."""

from __future__ import annotations

import re

from nemo_workflow.models.families.base import Config

LAYER = re.compile(r"^(?:model\.layers|transformer\.h|transformer\.encoder\.layers)\.\d+\.")
EXPERT = re.compile(r"(\.experts)\.\d+\.")

# a tensor's name, without its layer's and expert's numbers -> its sizes, as sums of products of those that `_sizes` names
OUTSIDE = {
    "model.embed_tokens.weight": "vocabulary hidden",
    "transformer.wte.weight": "vocabulary hidden",
    "transformer.wpe.weight": "positions hidden",
    "lm_head.weight": "vocabulary hidden",
    "transformer.embedding.word_embeddings.weight": "vocabulary hidden",
    "transformer.output_layer.weight": "vocabulary hidden",
    "transformer.encoder.final_layernorm.weight": "hidden",
    **dict.fromkeys(("model.norm.weight", "model.norm.bias", "transformer.ln_f.weight", "transformer.ln_f.bias"), "hidden"),
}  # fmt: skip
NORMS = {
    f"{name}.{what}": "hidden"
    for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
                 "ln_1", "ln_2")
    for what in ("weight", "bias")
}  # fmt: skip
ATTENTION = {
    "self_attn.q_proj.weight": "query hidden", "self_attn.q_proj.bias": "query",
    "self_attn.k_proj.weight": "key hidden", "self_attn.k_proj.bias": "key",
    "self_attn.v_proj.weight": "key hidden", "self_attn.v_proj.bias": "key",
    "self_attn.o_proj.weight": "hidden value", "self_attn.o_proj.bias": "hidden",
    "self_attn.qkv_proj.weight": "query+2*key hidden", "self_attn.W_pack.weight": "query+2*key hidden",
    "self_attention.query_key_value.weight": "query+2*key hidden", "self_attention.query_key_value.bias": "query+2*key",
    "self_attention.dense.weight": "hidden value",
    "self_attn.q_norm.weight": "head", "self_attn.k_norm.weight": "head",
    "self_attn.sinks": "heads",
    "attn.c_attn.weight": "hidden+2*head hidden", "attn.c_attn.bias": "hidden+2*head",
    "attn.c_proj.weight": "hidden hidden", "attn.c_proj.bias": "hidden",
    # latent attention
    "self_attn.q_a_proj.weight": "query_rank hidden", "self_attn.q_a_layernorm.weight": "query_rank",
    "self_attn.q_b_proj.weight": "query query_rank",
    "self_attn.kv_a_proj_with_mqa.weight": "key_rank+rotated hidden", "self_attn.kv_a_layernorm.weight": "key_rank",
    "self_attn.kv_b_proj.weight": "unrotated_and_value key_rank",
}  # fmt: skip
MLP = {
    "mlp.gate_proj.weight": "inner hidden", "mlp.up_proj.weight": "inner hidden", "mlp.down_proj.weight": "hidden inner",
    "mlp.gate_up_proj.weight": "2*inner hidden",
    "mlp.dense_h_to_4h.weight": "2*inner hidden", "mlp.dense_4h_to_h.weight": "hidden inner",
    "mlp.c_fc.weight": "inner hidden", "mlp.c_fc.bias": "inner", "mlp.c_proj.weight": "hidden inner", "mlp.c_proj.bias": "hidden",
    "block_sparse_moe.gate.weight": "experts hidden", "mlp.gate.weight": "experts hidden",
    "mlp.gate.e_score_correction_bias": "experts", "mlp.router.weight": "experts hidden", "mlp.router.bias": "experts",
    "block_sparse_moe.experts.w1.weight": "expert_inner hidden", "block_sparse_moe.experts.w3.weight": "expert_inner hidden",
    "block_sparse_moe.experts.w2.weight": "hidden expert_inner",
    "mlp.experts.gate_proj.weight": "expert_inner hidden", "mlp.experts.up_proj.weight": "expert_inner hidden",
    "mlp.experts.down_proj.weight": "hidden expert_inner",
    "mlp.experts.gate_up_proj": "experts hidden 2*expert_inner", "mlp.experts.gate_up_proj_bias": "experts 2*expert_inner",
    "mlp.experts.down_proj": "experts expert_inner hidden", "mlp.experts.down_proj_bias": "experts hidden",
    "mlp.shared_experts.gate_proj.weight": "shared_inner hidden", "mlp.shared_experts.up_proj.weight": "shared_inner hidden",
    "mlp.shared_experts.down_proj.weight": "hidden shared_inner",
}  # fmt: skip
SHAPES = {**OUTSIDE, **NORMS, **ATTENTION, **MLP}


def expected(name: str, hf: Config) -> tuple[int, ...] | None:
    """The shape of a tensor by a completed config.json; None for a name that isn't known."""
    words = SHAPES.get(EXPERT.sub(r"\1.", LAYER.sub("", name)))
    if words is None:
        return None
    sizes = _sizes(hf)
    return tuple(sum(_product(part, sizes) for part in word.split("+")) for word in words.split())


def _product(part: str, sizes: dict[str, int]) -> int:
    times, _, name = part.rpartition("*")
    return int(times or 1) * sizes[name]


def _sizes(hf: Config) -> dict[str, int]:
    """The words of SHAPES, in numbers; only those that the model has."""
    heads, hidden = hf["num_attention_heads"], hf["hidden_size"]
    sizes = {
        "hidden": hidden, "vocabulary": hf["vocab_size"], "positions": hf["max_position_embeddings"], "heads": heads,
        "inner": hf["intermediate_size"], "expert_inner": hf.get("moe_intermediate_size") or hf["intermediate_size"],
        "experts": hf.get("num_experts") or hf.get("num_local_experts") or hf.get("n_routed_experts") or 0,
    }  # fmt: skip
    if "kv_lora_rank" in hf:
        rotated, rest, value = hf["qk_rope_head_dim"], hf["qk_nope_head_dim"], hf["v_head_dim"]
        sizes |= {
            "query": heads * (rotated + rest), "value": heads * value, "rotated": rotated,
            "key_rank": hf["kv_lora_rank"], "query_rank": hf.get("q_lora_rank") or 0,
            "unrotated_and_value": heads * (rest + value),
            "shared_inner": hf["moe_intermediate_size"] * (hf.get("n_shared_experts") or 0),
        }  # fmt: skip
        return sizes
    head = hf.get("head_dim") or hidden // heads
    key = hf.get("num_key_value_heads", heads) * head
    return sizes | {"head": head, "query": heads * head, "key": key, "value": heads * head}
