"""Which architectures are converted, and how each tensor and each config field is carried. Plain data: no torch here.

A tensor rule names the Hugging Face tensors and the one Megatron tensor that hold the same numbers; `{l}` is the layer,
`{e}` the expert. A field rule names the config.json field and the NeMo config field. What has no rule is refused:
nothing is dropped because nobody thought of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """`kind` names the pair of functions in `transforms` that turn `hf` into `nemo` and back."""

    kind: str
    nemo: str
    hf: tuple[str, ...]
    layers: Callable[[Config], range] = lambda hf: range(hf["num_hidden_layers"])


@dataclass(frozen=True)
class Field:
    """One config.json field carried to one NeMo field. `default` is what transformers takes when config.json lacks it."""

    hf: str
    nemo: str
    default: Any = None


@dataclass(frozen=True)
class Family:
    """One architecture.

    `module` is the one of nemo.collections.llm.gpt.model that holds `model_class` and `config_class`.
    `fixed`: config.json fields that NeMo's model has no setting for, with the values that it computes.
    `nemo_fixed`: NeMo fields that the Hugging Face architecture has no setting for, with the values that it computes.
    `special(hf) -> (NeMo fields, losses)`: fields that need more than a copy; a loss is (field, what would be lost).
    `special_fields`: the config.json fields that it speaks of. `special_back(nemo) -> config.json fields`: its inverse.
    `experts(hf)`: experts a layer. `stacked(hf)`: all layers are alike, so Megatron stacks them in one tensor.
    `problem`: why this family isn't converted at all; None if it is.
    """

    name: str
    title: str
    model_type: str
    architecture: str
    module: str
    model_class: str
    config_class: str
    rules: Callable[[Config], list[Rule]]
    fields: tuple[Field, ...]
    fixed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    nemo_fixed: Config = field(default_factory=dict)
    special: Callable[[Config], tuple[Config, list[tuple[str, str]]]] = lambda hf: ({}, [])
    special_fields: frozenset[str] = frozenset()
    special_back: Callable[[Config], Config] = lambda nemo: {}
    config_class_for: Callable[[Config], str] | None = None
    experts: Callable[[Config], int] = lambda hf: 0
    stacked: Callable[[Config], bool] = lambda hf: True
    problem: str | None = None

    def nemo_class(self, hf: Config) -> str:
        """Name of the NeMo config class for this config.json."""
        return self.config_class_for(hf) if self.config_class_for else self.config_class


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


LLAMA = Family(
    name="llama",
    title="Llama 2, 3, 3.1, 3.2, 3.3, CodeLlama and models of the same architecture",
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
    special_fields=frozenset({"rope_scaling"}),
    special_back=llama_rope_back,
)

FAMILIES: tuple[Family, ...] = (LLAMA,)

# config.json fields that don't change what the model computes, or that only transformers itself reads
WITHOUT_EFFECT = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _name_or_path add_cross_attention architectures attn_implementation
    auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label is_decoder
    is_encoder_decoder label2id length_penalty max_length min_length model_type no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix
    pretraining_tp problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p unk_token_id
    use_bfloat16 use_cache
    """.split()
)


def by_model_type(model_type: str) -> Family | None:
    """The family of a config.json's model_type."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)
