"""Baichuan 2 7B: a Llama with q, k and v in one tensor, whose output layer divides each of its rows by the row's length.

Its code comes with the weights and is never run. NeMo's model has a plain output layer, so an import writes the rows divided, as
vLLM and llama.cpp load them. Training changes their lengths, which Baichuan's code would divide away: NeMo's model is then a Llama.
"""

from __future__ import annotations

from nemo_workflow.models.families.base import Config, Family, Reference, Rule
from nemo_workflow.models.families.dense import (
    DECODER,
    HF_LAYER,
    LAYER,
    LLAMA,
    PLAIN_DECODER,
    RMS_NORM,
    UNTIED,
    attention_rules,
    embedding_rules,
    gated_mlp_rules,
)

THETA = 10000.0  # of its rotary positions; its code reads none from config.json
# what its code reads for training, or not at all
WITHOUT_EFFECT = frozenset({"model_max_length", "z_loss_weight", "gradient_checkpointing", "_from_model_config"})


def rules(hf: Config) -> list[Rule]:
    """Llama's, but for the packed projections and the output layer."""
    qkv = Rule("qkv_stacked", f"{LAYER}self_attention.linear_qkv.weight", (f"{HF_LAYER}self_attn.W_pack.weight",))
    outside = embedding_rules({**hf, "tie_word_embeddings": True})
    output = Rule("vocab_unit", "output_layer.weight", ("lm_head.weight",))
    attention = [rule for rule in attention_rules() if rule.kind != "qkv"]
    return [*outside, output, qkv, *attention, *gated_mlp_rules()]


def refuses(raw: Config) -> str | None:
    """The 13B has the same model_type; its code adds ALiBi, and its config.json has no max_position_embeddings."""
    if raw.get("num_hidden_layers") == 40 or raw.get("hidden_size") == 5120 or "max_position_embeddings" not in raw:
        return (
            "Baichuan's 13B (40 layers, hidden size 5120, no max_position_embeddings) is not converted: it adds ALiBi to its"
            " attention scores, and Megatron has no such positions; the 7B is converted"
        )
    return None


def as_llama(hf: Config) -> Config:
    """A config.json in Llama's words: what is left out is code, or has no effect."""
    own = WITHOUT_EFFECT | {"auto_map"}
    kept = {name: value for name, value in hf.items() if name not in own}
    return {**kept, "model_type": LLAMA.model_type, "architectures": [LLAMA.architecture]}


BAICHUAN = Family(
    name="baichuan",
    title="Baichuan 2 7B",
    model_type="baichuan",
    architecture="BaichuanForCausalLM",
    module="baichuan",
    model_class="Baichuan2Model",
    config_class="Baichuan2Config",
    rules=rules,
    fields=(*(rule for rule in DECODER if rule.hf not in ("rope_theta", "attention_dropout")), RMS_NORM, UNTIED),
    fixed={"hidden_act": ("silu",), "tie_word_embeddings": (False,)},
    nemo_fixed={**PLAIN_DECODER, "rotary_base": THETA, "share_embeddings_and_output_weights": False},
    # NeMo's configuration without a size has learned positions
    special=lambda hf: ({"position_embedding_type": "rope"}, []),
    special_fields=WITHOUT_EFFECT,
    special_nemo=frozenset({"position_embedding_type"}),
    refuses=refuses,
    reference=Reference(
        model_type="llama",
        config=lambda hf: {**as_llama(hf), "rope_theta": THETA, "pad_token_id": None},
        tensors={
            **{
                f"{HF_LAYER}self_attn.{name}_proj.weight": (f"{HF_LAYER}self_attn.W_pack.weight", name)
                for name in "qkv"
            },
            "lm_head.weight": ("lm_head.weight", "unit"),
        },
    ),
    trained_as=LLAMA,
    as_trained=as_llama,
)

FAMILIES = (BAICHUAN,)
