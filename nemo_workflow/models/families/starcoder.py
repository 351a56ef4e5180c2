"""StarCoder 1 (GPTBigCode): learned positions, one key and value head for all, biases everywhere."""

from __future__ import annotations

from nemo_workflow.models.families.base import Config, Family, Field, Rule
from nemo_workflow.models.families.dense import LAYER, PLAIN_DECODER, TIED

HF_LAYER = "transformer.h.{l}."


def starcoder_rules(hf: Config) -> list[Rule]:
    """With one group, the Hugging Face model's q, k and v lie in Megatron's order already."""
    rules = [
        Rule("vocab", "embedding.word_embeddings.weight", ("transformer.wte.weight",)),
        Rule("copy", "embedding.position_embeddings.weight", ("transformer.wpe.weight",)),
    ]
    pairs = {
        "self_attention.linear_qkv": "attn.c_attn",
        "self_attention.linear_proj": "attn.c_proj",
        "mlp.linear_fc1": "mlp.c_fc",
        "mlp.linear_fc2": "mlp.c_proj",
    }
    norms = {"self_attention.linear_qkv.layer_norm_": "ln_1.", "mlp.linear_fc1.layer_norm_": "ln_2."}
    for what in ("weight", "bias"):
        rules.append(Rule("copy", f"decoder.final_layernorm.{what}", (f"transformer.ln_f.{what}",)))
        rules += [Rule("copy", f"{LAYER}{nemo}.{what}", (f"{HF_LAYER}{name}.{what}",)) for nemo, name in pairs.items()]
        rules += [Rule("copy", f"{LAYER}{nemo}{what}", (f"{HF_LAYER}{name}{what}",)) for nemo, name in norms.items()]
    if not hf["tie_word_embeddings"]:
        rules.append(Rule("vocab", "output_layer.weight", ("lm_head.weight",)))
    return rules


def special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """Megatron has one rate for the dropout after the embedding and in the layers; a rate changes the training only."""
    return {"attention_dropout": hf.get("attn_pdrop", 0.1), "hidden_dropout": hf.get("resid_pdrop", 0.1)}, []


def special_back(nemo: Config) -> Config:
    hidden = nemo.get("hidden_dropout", 0.1)
    return {"attn_pdrop": nemo.get("attention_dropout", 0.1), "resid_pdrop": hidden, "embd_pdrop": hidden}


STARCODER = Family(
    name="starcoder",
    title="StarCoder 1, StarCoderBase",
    model_type="gpt_bigcode",
    architecture="GPTBigCodeForCausalLM",
    module="starcoder",
    model_class="StarcoderModel",
    config_class="StarcoderConfig",
    rules=starcoder_rules,
    renamed={
        "n_layer": "num_hidden_layers",
        "n_embd": "hidden_size",
        "n_inner": "intermediate_size",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
    },
    fields=(
        Field("num_hidden_layers", "num_layers"),
        Field("hidden_size", "hidden_size"),
        Field("intermediate_size", "ffn_hidden_size", lambda hf: 4 * hf["hidden_size"]),
        Field("num_attention_heads", "num_attention_heads"),
        Field("num_key_value_heads", "num_query_groups", 1),
        Field("max_position_embeddings", "seq_length"),
        Field("initializer_range", "init_method_std", 0.02),
        Field("vocab_size", "vocab_size"),
        Field("layer_norm_epsilon", "layernorm_epsilon", 1e-5),
        TIED,
    ),
    fixed={
        "activation_function": ("gelu_pytorch_tanh",),
        "multi_query": (True,),
        "scale_attn_weights": (True,),
        "add_cross_attention": (False,),
    },
    nemo_fixed={
        **PLAIN_DECODER,
        "activation_func": "torch._C._nn.gelu",
        "add_bias_linear": True,
        "gated_linear_unit": False,
        "normalization": "LayerNorm",
        "num_query_groups": 1,
        "position_embedding_type": "learned_absolute",
    },
    special=special,
    special_fields=frozenset(
        {"attn_pdrop", "resid_pdrop", "embd_pdrop", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"}
    ),
    special_nemo=frozenset({"attention_dropout", "hidden_dropout"}),
    special_training=frozenset({"attn_pdrop", "resid_pdrop", "embd_pdrop"}),
    special_back=special_back,
    tanh_gelu=True,
    hf_layers="transformer.h",
    learned_positions=True,
)

FAMILIES = (STARCODER,)
