"""Families with experts: their tensor and field rules."""

from __future__ import annotations

from nemo_workflow.models.families.base import Config, Family, Field, Rule
from nemo_workflow.models.families.dense import (
    DECODER,
    HF_LAYER,
    LAYER,
    LONGEST,
    PLAIN_DECODER,
    PLAIN_ROPE_NEMO,
    QWEN_HF,
    RMS_NORM,
    ROPE_HF,
    UNTIED,
    attention_rules,
    embedding_rules,
    llama_rope_back,
    local_window,
    plain_rope,
    qk_norm_rules,
    qwen_special,
    rope_and_window_back,
    window,
    with_default,
)

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
    fields, losses = plain_rope(hf)
    return {**fields, **window(hf), "moe_ffn_hidden_size": hf["intermediate_size"]}, losses


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
    special_fields=ROPE_HF | {"sliding_window", "output_router_logits", "seq_length"},
    special_nemo=PLAIN_ROPE_NEMO | {"window_size", "moe_ffn_hidden_size"},
    special_back=rope_and_window_back,
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
    renamed5={"num_local_experts": "num_experts"},
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


# --- GPT-OSS ----------------------------------------------------------------------------------------------------------
def gpt_oss_rules(hf: Config) -> list[Rule]:
    """All experts of a layer in one tensor, gate and up rows taking turns; biases everywhere; a sink a head."""
    experts, hf_experts = f"{LAYER}mlp.experts.experts.", f"{HF_LAYER}mlp.experts."
    pairs = {
        f"{LAYER}self_attention.linear_proj.bias": f"{HF_LAYER}self_attn.o_proj.bias",
        f"{LAYER}self_attention.core_attention.softmax_offset": f"{HF_LAYER}self_attn.sinks",
        f"{LAYER}mlp.router.weight": f"{HF_LAYER}mlp.router.weight",
        f"{LAYER}mlp.router.bias": f"{HF_LAYER}mlp.router.bias",
        f"{experts}linear_fc2.bias": f"{hf_experts}down_proj_bias",
    }
    norm = (f"{HF_LAYER}post_attention_layernorm.weight",)
    return [
        *embedding_rules(hf),
        *attention_rules(bias=True),
        *(Rule("copy", nemo, (name,)) for nemo, name in pairs.items()),
        Rule("turns", f"{experts}linear_fc1.bias", (f"{hf_experts}gate_up_proj_bias",)),
        Rule("turns_transposed", f"{experts}linear_fc1.weight", (f"{hf_experts}gate_up_proj",)),
        Rule("transposed", f"{experts}linear_fc2.weight", (f"{hf_experts}down_proj",)),
        Rule("copy", f"{LAYER}pre_mlp_layernorm.weight", norm, alias=f"{LAYER}mlp.linear_fc1.layer_norm_weight"),
    ]


GPT_OSS_YARN = {
    "factor": "yarn_rotary_scaling_factor",
    "original_max_position_embeddings": "yarn_original_max_position_embeddings",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "truncate": "yarn_correction_range_round_to_int",
}
# what transformers takes for the whole of a rope_scaling that is missing, and for a key that one lacks
GPT_OSS_ROPE: Config = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
YARN_KEYS: Config = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}


def gpt_oss_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """NeMo's default yarn_mscale_all_dim of 1 takes away the factor on the rotary tables that this model is made with; 0 keeps it."""
    scaling = (hf["rope_scaling"] or {}) if "rope_scaling" in hf else GPT_OSS_ROPE
    losses = []
    if scaling.get("rope_type", scaling.get("type")) != "yarn" or {
        "mscale",
        "mscale_all_dim",
        "attention_factor",
    } & set(scaling):
        losses.append(("rope_scaling", "NeMo's model computes plain yarn scaling only"))
    expected = ["full_attention" if (i + 1) % 2 == 0 else "sliding_attention" for i in range(hf["num_hidden_layers"])]
    if hf.get("layer_types") not in (None, expected):
        losses.append(("layer_types", "NeMo's model has a window on layers 1, 3, …, this one on others"))
    given = {name: value for name, value in scaling.items() if value is not None}
    longest = {"original_max_position_embeddings": hf["max_position_embeddings"]}
    values = {"factor": 1.0, **YARN_KEYS, **longest, **given}
    return {
        **{nemo: values[name] for name, nemo in GPT_OSS_YARN.items()},
        "yarn_mscale": 1.0,
        "yarn_mscale_all_dim": 0.0,
        "window_size": (local_window(hf, 128) - 1, 0),
        "window_attn_skip_freq": 2,
        "moe_ffn_hidden_size": hf["intermediate_size"],
    }, losses


def gpt_oss_back(nemo: Config) -> Config:
    scaling = {name: nemo[field] for name, field in GPT_OSS_YARN.items()}
    return {"rope_scaling": {**scaling, "rope_type": "yarn"}, "sliding_window": nemo["window_size"][0] + 1}


GPT_OSS = Family(
    name="gpt_oss",
    title="GPT-OSS in bf16",
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    module="gpt_oss",
    model_class="GPTOSSModel",
    config_class="GPTOSSConfig",
    rules=gpt_oss_rules,
    fields=(
        *with_default(DECODER, head_dim=64, rope_theta=150000.0),
        Field("rms_norm_eps", "layernorm_epsilon", 1e-5),
        UNTIED,
        Field("num_local_experts", "num_moe_experts", 128),
        Field("num_experts_per_tok", "moe_router_topk", 4),
        Field("router_aux_loss_coef", "moe_aux_loss_coeff", 0.9),
    ),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (None, True),
        "swiglu_limit": (None, 7.0),
        "swiglu_alpha": (None, 1.702),
    },
    nemo_fixed={
        **{name: value for name, value in EXPERTS_NEMO.items() if name != "window_size"},
        "activation_func": "megatron.core.activations.quick_gelu",
        "activation_func_clamp_value": 7.0,
        "add_bias_linear": True,
        "glu_linear_offset": 1.0,
        "moe_router_pre_softmax": False,
        "position_embedding_type": "yarn",
        "softmax_type": "learnable",
        "yarn_mscale": 1.0,
        "yarn_mscale_all_dim": 0.0,
    },
    special=gpt_oss_special,
    special_fields=frozenset(
        {
            "sliding_window",
            "rope_scaling",
            "layer_types",
            "output_router_logits",
            "initial_context_length",
            "experts_per_token",
        }
    ),
    special_nemo=frozenset({*GPT_OSS_YARN.values(), "window_size", "window_attn_skip_freq", "moe_ffn_hidden_size"}),
    special_back=gpt_oss_back,
    experts=lambda hf: hf["num_local_experts"],
)

FAMILIES = (MIXTRAL, QWEN3_MOE, GPT_OSS)
