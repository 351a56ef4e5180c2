"""Families whose layers all have one MLP: their tensor and field rules."""

from __future__ import annotations

from nemo_workflow.models.families.base import Config, Family, Field, Rule

# --- tensors ----------------------------------------------------------------------------------------------------------
HF_LAYER = "model.layers.{l}."
LAYER = "decoder.layers.{l}."


def embedding_rules(hf: Config) -> list[Rule]:
    """Token embedding, final norm and, for untied models, the output layer."""
    rules = [
        Rule("vocab", "embedding.word_embeddings.weight", ("model.embed_tokens.weight",)),
        Rule("copy", "decoder.final_layernorm.weight", ("model.norm.weight",)),
    ]
    if not hf["tie_word_embeddings"]:
        rules.append(Rule("vocab", "output_layer.weight", ("lm_head.weight",)))
    return rules


def attention_rules(bias: bool = False) -> list[Rule]:
    """Grouped-query attention with separate q, k and v projections, and the norm in front of it."""

    def projections(what: str) -> tuple[str, ...]:
        return tuple(f"{HF_LAYER}self_attn.{name}_proj.{what}" for name in "qkv")

    rules = [
        Rule("qkv", f"{LAYER}self_attention.linear_qkv.weight", projections("weight")),
        Rule("copy", f"{LAYER}self_attention.linear_proj.weight", (f"{HF_LAYER}self_attn.o_proj.weight",)),
        Rule(
            "copy",
            f"{LAYER}self_attention.linear_qkv.layer_norm_weight",
            (f"{HF_LAYER}input_layernorm.weight",),
        ),
    ]
    if bias:
        rules.append(Rule("qkv", f"{LAYER}self_attention.linear_qkv.bias", projections("bias")))
    return rules


def gated_mlp_rules() -> list[Rule]:
    """SwiGLU-like MLP with separate gate and up projections, and the norm in front of it."""
    return [
        Rule(
            "gate_up",
            f"{LAYER}mlp.linear_fc1.weight",
            (f"{HF_LAYER}mlp.gate_proj.weight", f"{HF_LAYER}mlp.up_proj.weight"),
        ),
        Rule("copy", f"{LAYER}mlp.linear_fc2.weight", (f"{HF_LAYER}mlp.down_proj.weight",)),
        Rule("copy", f"{LAYER}mlp.linear_fc1.layer_norm_weight", (f"{HF_LAYER}post_attention_layernorm.weight",)),
    ]


def llama_rules(hf: Config) -> list[Rule]:
    return embedding_rules(hf) + attention_rules() + gated_mlp_rules()


# --- config fields ----------------------------------------------------------------------------------------------------
DECODER = (
    Field("num_hidden_layers", "num_layers"),
    Field("hidden_size", "hidden_size"),
    Field("intermediate_size", "ffn_hidden_size"),
    Field("num_attention_heads", "num_attention_heads"),
    Field("num_key_value_heads", "num_query_groups"),
    Field("head_dim", "kv_channels"),
    Field("max_position_embeddings", "seq_length"),
    Field("initializer_range", "init_method_std", 0.02),
    Field("vocab_size", "vocab_size"),
    Field("rope_theta", "rotary_base", 10000.0),
    Field("attention_dropout", "attention_dropout", 0.0),
)


def with_default(table: tuple[Field, ...], **defaults: float) -> tuple[Field, ...]:
    """The same fields, some of them with another default of transformers'."""
    return tuple(Field(rule.hf, rule.nemo, defaults.get(rule.hf, rule.default)) for rule in table)


RMS_NORM = Field("rms_norm_eps", "layernorm_epsilon", 1e-6)
UNTIED = Field("tie_word_embeddings", "share_embeddings_and_output_weights", False)

SILU = "torch.nn.functional.silu"
PLAIN_DECODER: Config = {
    "add_bias_linear": False,
    "add_qkv_bias": False,
    "apply_query_key_layer_scaling": False,
    "apply_residual_connection_post_layernorm": False,
    "gated_linear_unit": True,
    "layernorm_zero_centered_gamma": False,
    "multi_latent_attention": False,
    "normalization": "RMSNorm",
    "num_moe_experts": None,
    "position_embedding_type": "rope",
    "qk_layernorm": False,
    "rotary_interleaved": False,
    "rotary_percent": 1.0,
    "softmax_scale": None,
    "window_size": None,
    "activation_func": SILU,
    "mtp_num_layers": None,
}


def llama_rope(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """NeMo computes plain, linear and Llama 3.1 rotary positions."""
    scaling = hf.get("rope_scaling")
    if scaling is None:
        return {}, []
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "default":
        return {}, []
    if kind == "linear":
        return {"seq_len_interpolation_factor": float(scaling["factor"])}, []
    if kind == "llama3":
        return {
            "scale_factor": scaling["factor"],
            "low_freq_factor": scaling["low_freq_factor"],
            "high_freq_factor": scaling["high_freq_factor"],
            "old_context_len": scaling["original_max_position_embeddings"],
        }, []
    return {}, [("rope_scaling", f"NeMo's model has no {kind!r} rope scaling")]


def llama_rope_back(nemo: Config) -> Config:
    """The inverse of `llama_rope`."""
    if "old_context_len" in nemo:
        return {
            "rope_scaling": {
                "factor": nemo["scale_factor"],
                "high_freq_factor": nemo["high_freq_factor"],
                "low_freq_factor": nemo["low_freq_factor"],
                "original_max_position_embeddings": nemo["old_context_len"],
                "rope_type": "llama3",
            }
        }
    if nemo.get("seq_len_interpolation_factor"):
        return {"rope_scaling": {"factor": float(nemo["seq_len_interpolation_factor"]), "rope_type": "linear"}}
    return {"rope_scaling": None}


def llama_class(hf: Config) -> str:
    scaling = hf.get("rope_scaling") or {}
    return "Llama31Config" if scaling.get("rope_type", scaling.get("type")) == "llama3" else "LlamaConfig"


PLAIN_ROPE_NEMO = frozenset({"seq_len_interpolation_factor"})
ROPE_HF = frozenset({"rope_scaling"})


def plain_rope(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """For NeMo models that compute plain and linear rotary positions only."""
    fields, losses = llama_rope(hf)
    if "old_context_len" in fields:
        return {}, [("rope_scaling", "NeMo's model has no 'llama3' rope scaling")]
    return fields, losses


def window(hf: Config, default: int | None = None) -> Config:
    """A sliding window of w tokens is (w - 1, 0) for Megatron and Transformer Engine: w - 1 before the token itself.

    NeMo's own importers write (w, 0), one token more than the Hugging Face model sees.
    """
    width = hf.get("sliding_window", default)
    return {"window_size": None if width is None else [width - 1, 0]}


def local_window(hf: Config, default: int) -> int:
    """The width of the window that local layers have. Raises ValueError where they have none."""
    width = hf.get("sliding_window", default)
    if width is None:
        raise ValueError("sliding_window is null, and its local layers have one")
    return int(width)


def window_back(nemo: Config) -> Config:
    size = nemo.get("window_size")
    return {"sliding_window": None if not size else size[0] + 1}


# --- Llama and those that differ from it by a field -------------------------------------------------------------------
LLAMA = Family(
    name="llama",
    title="Llama 2, 3, 3.1, 3.2, 3.3, CodeLlama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    module="llama",
    model_class="LlamaModel",
    config_class="LlamaConfig",
    config_class_for=llama_class,
    rules=llama_rules,
    fields=(*DECODER, RMS_NORM, UNTIED),
    fixed={"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    nemo_fixed=PLAIN_DECODER,
    special=llama_rope,
    special_fields=ROPE_HF,
    special_nemo=PLAIN_ROPE_NEMO | {"scale_factor", "low_freq_factor", "high_freq_factor", "old_context_len"},
    special_back=llama_rope_back,
)


def mistral_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    fields, losses = plain_rope(hf)
    fields |= window(hf, 4096)
    fields["cp_comm_type"] = "a2a" if fields["window_size"] else None
    return fields, losses


def rope_and_window_back(nemo: Config) -> Config:
    """The inverse of `plain_rope` and `window`."""
    return {**llama_rope_back(nemo), **window_back(nemo)}


MISTRAL = Family(
    name="mistral",
    title="Mistral 7B, Mistral NeMo, Mistral Large, Mistral Small 3",
    model_type="mistral",
    architecture="MistralForCausalLM",
    module="mistral",
    model_class="MistralModel",
    config_class="MistralConfig7B",
    rules=llama_rules,
    fields=(*DECODER, RMS_NORM, UNTIED),
    fixed={"hidden_act": ("silu",)},
    nemo_fixed={name: value for name, value in PLAIN_DECODER.items() if name != "window_size"},
    special=mistral_special,
    special_fields=ROPE_HF | {"sliding_window"},
    special_nemo=PLAIN_ROPE_NEMO | {"window_size"},
    special_back=rope_and_window_back,
)


def full_attention(hf: Config) -> list[tuple[str, str]]:
    """Qwen's configs always name a window; it counts only with use_sliding_window, on the layers from max_window_layers on."""
    used = bool(hf.get("use_sliding_window")) and hf.get("sliding_window") is not None
    layers = hf["num_hidden_layers"]
    types = hf.get("layer_types")
    with_window = (
        layers - min(hf.get("max_window_layers", 28), layers) if types is None else types.count("sliding_attention")
    )
    if types is not None and with_window and not used:
        raise ValueError(
            "layer_types names layers with a window, and there is none: sliding_window, use_sliding_window"
        )
    if used and with_window:
        return [
            ("use_sliding_window", f"NeMo's model has no window, this one has one on {with_window} of {layers} layers")
        ]
    return []


def qwen_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    fields, losses = plain_rope(hf)
    return fields, losses + full_attention(hf)


QWEN_HF = ROPE_HF | {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}

QWEN2 = Family(
    name="qwen2",
    title="Qwen 2, Qwen 2.5",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    module="qwen2",
    model_class="Qwen2Model",
    config_class="Qwen2Config",
    rules=lambda hf: embedding_rules(hf) + attention_rules(bias=True) + gated_mlp_rules(),
    fields=(*DECODER, RMS_NORM, UNTIED),
    fixed={"hidden_act": ("silu",)},
    nemo_fixed={**PLAIN_DECODER, "add_qkv_bias": True},
    special=qwen_special,
    special_fields=QWEN_HF,
    special_nemo=PLAIN_ROPE_NEMO,
    special_back=llama_rope_back,
)


def qk_norm_rules() -> list[Rule]:
    """Norms of the queries and keys, head by head."""
    return [
        Rule("copy", f"{LAYER}self_attention.{name}_layernorm.weight", (f"{HF_LAYER}self_attn.{name}_norm.weight",))
        for name in "qk"
    ]


# NeMo's Qwen 3 and Mixtral have a field of their own for the longest context; training changes only seq_length
LONGEST = Field("max_position_embeddings", "max_position_embeddings")

QWEN3 = Family(
    name="qwen3",
    title="Qwen 3 (dense)",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    module="qwen3",
    model_class="Qwen3Model",
    config_class="Qwen3Config",
    rules=lambda hf: embedding_rules(hf) + attention_rules() + qk_norm_rules() + gated_mlp_rules(),
    fields=(*with_default(DECODER, head_dim=128), RMS_NORM, UNTIED, LONGEST),
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    nemo_fixed={**PLAIN_DECODER, "qk_layernorm": True},
    special=qwen_special,
    special_fields=QWEN_HF,
    special_nemo=PLAIN_ROPE_NEMO,
    special_back=llama_rope_back,
)

# --- Gemma, Nemotron, Phi 3, StarCoder 2 ------------------------------------------------------------------------------
TIED = Field("tie_word_embeddings", "share_embeddings_and_output_weights", True)

GEMMA = Family(
    name="gemma",
    title="Gemma, CodeGemma",
    model_type="gemma",
    architecture="GemmaForCausalLM",
    module="gemma",
    model_class="GemmaModel",
    config_class="GemmaConfig",
    rules=llama_rules,
    fields=(*with_default(DECODER, head_dim=256), RMS_NORM, TIED),
    # transformers computes hidden_act and doesn't read hidden_activation
    fixed={
        "hidden_act": ("gelu_pytorch_tanh",),
        "hidden_activation": (None, "gelu_pytorch_tanh"),
        "attention_bias": (False,),
        "tie_word_embeddings": (True,),
    },
    nemo_fixed={
        **PLAIN_DECODER,
        "activation_func": "nemo.collections.llm.fn.activation.openai_gelu",
        "layernorm_zero_centered_gamma": True,
    },
    special=plain_rope,
    special_fields=ROPE_HF,
    special_nemo=PLAIN_ROPE_NEMO,
    special_back=llama_rope_back,
)


def layer_norm_bias_rules() -> list[Rule]:
    """The biases of LayerNorms."""
    return [
        Rule("copy", "decoder.final_layernorm.bias", ("model.norm.bias",)),
        Rule("copy", f"{LAYER}self_attention.linear_qkv.layer_norm_bias", (f"{HF_LAYER}input_layernorm.bias",)),
        Rule("copy", f"{LAYER}mlp.linear_fc1.layer_norm_bias", (f"{HF_LAYER}post_attention_layernorm.bias",)),
    ]


def plain_mlp_rules(up: str, down: str) -> list[Rule]:
    """MLP without a gate, and the norm in front of it."""
    return [
        Rule("copy", f"{LAYER}mlp.linear_fc1.weight", (f"{HF_LAYER}mlp.{up}.weight",)),
        Rule("copy", f"{LAYER}mlp.linear_fc2.weight", (f"{HF_LAYER}mlp.{down}.weight",)),
        Rule("copy", f"{LAYER}mlp.linear_fc1.layer_norm_weight", (f"{HF_LAYER}post_attention_layernorm.weight",)),
    ]


NEMOTRON = Family(
    name="nemotron",
    title="Nemotron 3 and 4 (Minitron)",
    model_type="nemotron",
    architecture="NemotronForCausalLM",
    module="nemotron",
    model_class="NemotronModel",
    config_class="NemotronConfig",
    rules=lambda hf: (
        embedding_rules(hf) + attention_rules() + plain_mlp_rules("up_proj", "down_proj") + layer_norm_bias_rules()
    ),
    fields=(
        *with_default(DECODER, initializer_range=0.0134),
        Field("norm_eps", "layernorm_epsilon", 1e-5),
        Field("partial_rotary_factor", "rotary_percent", 0.5),
        UNTIED,
    ),
    # transformers 4 passes over a rope_scaling, version 5 scales by it: which of both a model means can't be told
    fixed={"hidden_act": ("relu2",), "attention_bias": (False,), "mlp_bias": (False,), "rope_scaling": (None,)},
    nemo_fixed={
        **{name: value for name, value in PLAIN_DECODER.items() if name != "rotary_percent"},
        "activation_func": "nemo.collections.llm.fn.activation.squared_relu",
        "gated_linear_unit": False,
        "layernorm_zero_centered_gamma": True,
        "normalization": "LayerNorm",
    },
)


def phi3_rules(hf: Config) -> list[Rule]:
    """q, k and v in one tensor, gate and up in another."""
    return [
        *embedding_rules(hf),
        Rule("qkv_stacked", f"{LAYER}self_attention.linear_qkv.weight", (f"{HF_LAYER}self_attn.qkv_proj.weight",)),
        *(rule for rule in attention_rules() if rule.kind != "qkv"),
        *plain_mlp_rules("gate_up_proj", "down_proj"),
    ]


def phi3_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    fields, losses = plain_rope(hf)
    return {**fields, **window(hf)}, losses


PHI3 = Family(
    name="phi3",
    title="Phi 3 mini 4k, Phi 4",
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    module="phi3mini",
    model_class="Phi3Model",
    config_class="Phi3Config",
    rules=phi3_rules,
    fields=(
        *DECODER,
        Field("rms_norm_eps", "layernorm_epsilon", 1e-5),
        Field("partial_rotary_factor", "rotary_percent", 1.0),
        Field("resid_pdrop", "hidden_dropout", 0.0),
        UNTIED,
    ),
    fixed={"hidden_act": ("silu",)},
    nemo_fixed={name: value for name, value in PLAIN_DECODER.items() if name not in ("window_size", "rotary_percent")},
    special=phi3_special,
    special_fields=ROPE_HF | {"sliding_window", "original_max_position_embeddings", "embd_pdrop"},
    special_nemo=PLAIN_ROPE_NEMO | {"window_size"},
    special_back=rope_and_window_back,
)


FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, NEMOTRON, PHI3)
