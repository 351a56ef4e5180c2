"""Gemma 2 and 3: norms after attention and MLP, local layers with a window."""

from __future__ import annotations

import math

from nemo_workflow.models.families.base import Config, Family, Field, Rule
from nemo_workflow.models.families.dense import (
    DECODER,
    HF_LAYER,
    LAYER,
    PLAIN_DECODER,
    PLAIN_ROPE_NEMO,
    RMS_NORM,
    ROPE_HF,
    TIED,
    attention_rules,
    embedding_rules,
    gated_mlp_rules,
    local_window,
    plain_rope,
    qk_norm_rules,
    rope_and_window_back,
    with_default,
)


def norm_rules() -> list[Rule]:
    """Norms on both sides of attention and MLP."""
    places = {
        "post_attention_layernorm": "self_attention.linear_proj.post_layernorm",
        "post_feedforward_layernorm": "mlp.linear_fc2.post_layernorm",
    }
    rules = [Rule("copy", f"{LAYER}{nemo}.weight", (f"{HF_LAYER}{hf}.weight",)) for hf, nemo in places.items()]
    before_mlp = f"{HF_LAYER}pre_feedforward_layernorm.weight"
    return [*rules, Rule("copy", f"{LAYER}mlp.linear_fc1.layer_norm_weight", (before_mlp,))]


def gemma2_rules(hf: Config) -> list[Rule]:
    mlp = [rule for rule in gated_mlp_rules() if not rule.nemo.endswith("layer_norm_weight")]
    return embedding_rules(hf) + attention_rules() + mlp + norm_rules()


def gemma2_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """Both have a window on every second layer, but on different ones: no longer sequence than the window is exact."""
    width, length = hf.get("sliding_window", 4096), hf["max_position_embeddings"]
    fields, losses = plain_rope(hf)
    fields["window_size"] = (width - 1, 0) if width else None
    if width is not None and width < length:
        fields["seq_length"] = width
    return fields, losses


def gemma2_beyond(nemo: Config) -> list[tuple[str, str]]:
    """What a model that was trained on longer sequences than its window loses on the way back."""
    window = nemo.get("window_size")
    if not window or nemo["seq_length"] <= window[0] + 1:
        return []
    what = (
        f"NeMo had the window on layers 2, 4, …, {GEMMA2.architecture} has it on 1, 3, …, and the model was trained with"
        f" {nemo['seq_length']} tokens: equal up to {window[0] + 1} only"
    )
    return [("sliding_window", what)]


GEMMA_NEMO: Config = {
    name: value for name, value in PLAIN_DECODER.items() if name not in ("window_size", "softmax_scale")
}

GEMMA2 = Family(
    name="gemma2",
    title="Gemma 2",
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    module="gemma2",
    model_class="Gemma2Model",
    config_class="Gemma2Config",
    rules=gemma2_rules,
    fields=(
        *with_default(DECODER, head_dim=256),
        RMS_NORM,
        TIED,
        Field("query_pre_attn_scalar", "query_pre_attn_scalar", 256),
        Field("attn_logit_softcapping", "attn_logit_softcapping"),
        Field("final_logit_softcapping", "final_logit_softcapping"),
    ),
    fixed={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "hidden_act": (None, "gelu_pytorch_tanh"),
        "attention_bias": (False,),
        "tie_word_embeddings": (True,),
        "cache_implementation": (None, "hybrid"),
    },
    nemo_fixed={
        **GEMMA_NEMO,
        "activation_func": "nemo.collections.llm.fn.activation.openai_gelu",
        "layernorm_zero_centered_gamma": True,
    },
    special=gemma2_special,
    special_fields=ROPE_HF | {"sliding_window", "layer_types"},
    special_nemo=PLAIN_ROPE_NEMO | {"window_size"},
    special_back=rope_and_window_back,
    losses_back=gemma2_beyond,
    exact_up_to=lambda hf: hf.get("sliding_window", 4096),
    local_spec="gemma2",
)


def gemma3_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """Plain rotary positions in the local layers, plain or linearly scaled ones in the global layers."""
    losses = []
    scaling = hf.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("linear", "default"):
        losses.append(("rope_scaling", f"NeMo's model has no {kind!r} rope scaling"))
    types = hf.get("layer_types")
    pattern = hf.get("sliding_window_pattern") or hf.get("_sliding_window_pattern") or 6
    if types and "full_attention" in types:
        pattern = types.index("full_attention") + 1
    expected = [
        "full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(hf["num_hidden_layers"])
    ]
    if types is not None and types != expected:
        losses.append(("layer_types", f"NeMo's model has every {pattern}th layer global, this one another pattern"))
    scale = hf.get("query_pre_attn_scalar", 256)
    return {
        "rotary_base": (hf.get("rope_local_base_freq", 10000.0), hf.get("rope_theta", 1e6)),
        "rope_scaling_factor": float(scaling.get("factor", 1.0)),
        "window_size": local_window(hf, 4096) - 1,
        "interleaved_attn_pattern": (pattern - 1, 1),
        "softmax_scale": None if scale == hf["head_dim"] else 1.0 / math.sqrt(scale),
    }, losses


def gemma3_back(nemo: Config) -> Config:
    factor = nemo.get("rope_scaling_factor", 1.0)
    scale = nemo.get("softmax_scale")
    return {
        "rope_local_base_freq": nemo["rotary_base"][0],
        "rope_theta": nemo["rotary_base"][1],
        "rope_scaling": None if factor == 1.0 else {"factor": float(factor), "rope_type": "linear"},
        "sliding_window": nemo["window_size"] + 1,
        "query_pre_attn_scalar": nemo["kv_channels"] if scale is None else round(1.0 / scale**2),
    }


# transformers' own, which the text_config of the models of images leaves out
GEMMA3_DEFAULTS = {
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 262208,
}
GEMMA3 = Family(
    name="gemma3",
    title="Gemma 3, text only",
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    module="gemma3",
    model_class="Gemma3Model",
    config_class="Gemma3Config1B",
    rules=lambda hf: gemma2_rules(hf) + qk_norm_rules(),
    fields=(
        *(rule for rule in with_default(DECODER, **GEMMA3_DEFAULTS) if rule.hf != "rope_theta"),
        RMS_NORM,
        TIED,
    ),
    fixed={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "hidden_act": (None, "gelu_pytorch_tanh"),
        "attention_bias": (False,),
        "tie_word_embeddings": (True,),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
        "use_bidirectional_attention": (False,),
        "cache_implementation": (None, "hybrid"),
    },
    nemo_fixed={
        **GEMMA_NEMO,
        "activation_func": "torch._C._nn.gelu",
        "is_vision_language": False,
        "layernorm_zero_centered_gamma": True,
        "qk_layernorm": False,  # NeMo's layers have the norms whatever this says
    },
    special=gemma3_special,
    special_fields=frozenset(
        {
            "layer_types",
            "query_pre_attn_scalar",
            "rope_local_base_freq",
            "rope_scaling",
            "rope_theta",
            "sliding_window",
            "sliding_window_pattern",
            "_sliding_window_pattern",
        }
    ),
    special_nemo=frozenset(
        {"interleaved_attn_pattern", "rope_scaling_factor", "rotary_base", "softmax_scale", "window_size"}
    ),
    special_back=gemma3_back,
    tanh_gelu=True,
    local_spec="gemma3",
)

FAMILIES = (GEMMA2, GEMMA3)
