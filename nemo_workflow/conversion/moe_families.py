"""Families with experts: their tensor and field rules."""

from __future__ import annotations

from nemo_workflow.conversion.dense_families import (
    DECODER,
    HF_LAYER,
    LAYER,
    LONGEST,
    PLAIN_DECODER,
    PLAIN_ROPE_NEMO,
    QWEN_HF,
    RMS_NORM,
    UNTIED,
    attention_rules,
    embedding_rules,
    llama_rope_back,
    qk_norm_rules,
    qwen_special,
    window,
    window_back,
    with_default,
)
from nemo_workflow.conversion.family import Config, Family, Field, Rule

EXPERT = f"{LAYER}mlp.experts.experts.{{e}}."


def expert_rules(block: str, router: str, gate: str, up: str, down: str) -> list[Rule]:
    """Gated experts under `block`, their router, and the norm in front of them.

    Megatron's own layers and Transformer Engine's name that norm differently in a checkpoint, so it is written under both.
    """
    return [
        Rule("copy", f"{LAYER}mlp.router.weight", (f"{HF_LAYER}{block}.{router}.weight",)),
        Rule(
            "gate_up",
            f"{EXPERT}linear_fc1.weight",
            (f"{HF_LAYER}{block}.experts.{{e}}.{gate}.weight", f"{HF_LAYER}{block}.experts.{{e}}.{up}.weight"),
        ),
        Rule("copy", f"{EXPERT}linear_fc2.weight", (f"{HF_LAYER}{block}.experts.{{e}}.{down}.weight",)),
        Rule(
            "copy",
            f"{LAYER}pre_mlp_layernorm.weight",
            (f"{HF_LAYER}post_attention_layernorm.weight",),
            alias=f"{LAYER}mlp.linear_fc1.layer_norm_weight",
        ),
    ]


EXPERTS_NEMO: Config = {name: value for name, value in PLAIN_DECODER.items() if name != "num_moe_experts"} | {
    "moe_layer_freq": 1,
    "moe_router_enable_expert_bias": False,
    "moe_router_group_topk": None,
    "moe_router_score_function": "softmax",
    "moe_router_topk_scaling_factor": None,
    "moe_shared_expert_intermediate_size": None,
}


def mixtral_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    return {**window(hf), "moe_ffn_hidden_size": hf["intermediate_size"]}, []


MIXTRAL = Family(
    name="mixtral",
    title="Mixtral 8x7B, 8x22B",
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    module="mixtral",
    model_class="MixtralModel",
    config_class="MixtralConfig8x7B",
    rules=lambda hf: (
        embedding_rules(hf) + attention_rules() + expert_rules("block_sparse_moe", "gate", "w1", "w3", "w2")
    ),
    fields=(
        *with_default(DECODER, rope_theta=1e6),
        Field("rms_norm_eps", "layernorm_epsilon", 1e-5),
        UNTIED,
        LONGEST,
        Field("num_local_experts", "num_moe_experts", 8),
        Field("num_experts_per_tok", "moe_router_topk", 2),
        Field("router_aux_loss_coef", "moe_aux_loss_coeff", 0.001),
    ),
    fixed={"hidden_act": ("silu",), "router_jitter_noise": (0.0,)},
    nemo_fixed={
        **{name: value for name, value in EXPERTS_NEMO.items() if name != "window_size"},
        "moe_router_pre_softmax": False,
    },
    special=mixtral_special,
    special_fields=frozenset({"sliding_window", "output_router_logits", "seq_length"}),
    special_nemo=frozenset({"window_size", "moe_ffn_hidden_size"}),
    special_back=window_back,
    experts=lambda hf: hf["num_local_experts"],
)


def qwen3_moe_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """norm_topk_prob: softmax over the chosen experts only; without it, over all experts before choosing."""
    fields, losses = qwen_special(hf)
    return {**fields, "moe_router_pre_softmax": not hf.get("norm_topk_prob", False)}, losses


QWEN3_MOE = Family(
    name="qwen3_moe",
    title="Qwen 3 MoE",
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    module="qwen3",
    model_class="Qwen3Model",
    config_class="Qwen3MoEConfig",
    rules=lambda hf: (
        embedding_rules(hf)
        + attention_rules()
        + qk_norm_rules()
        + expert_rules("mlp", "gate", "gate_proj", "up_proj", "down_proj")
    ),
    fields=(
        *DECODER,
        RMS_NORM,
        UNTIED,
        LONGEST,
        Field("num_experts", "num_moe_experts", 128),
        Field("num_experts_per_tok", "moe_router_topk", 8),
        Field("moe_intermediate_size", "moe_ffn_hidden_size", 768),
        Field("router_aux_loss_coef", "moe_aux_loss_coeff", 0.001),
    ),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "decoder_sparse_step": (1,),
        "mlp_only_layers": (None, []),
    },
    nemo_fixed={**EXPERTS_NEMO, "qk_layernorm": True},
    special=qwen3_moe_special,
    special_fields=QWEN_HF | {"norm_topk_prob", "output_router_logits"},
    special_nemo=PLAIN_ROPE_NEMO | {"moe_router_pre_softmax"},
    special_back=lambda nemo: {
        **llama_rope_back(nemo),
        "norm_topk_prob": not nemo.get("moe_router_pre_softmax", False),
    },
    experts=lambda hf: hf["num_experts"],
)
