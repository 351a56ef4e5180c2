"""StarCoder 2: a plain decoder with LayerNorms and biases everywhere."""

from __future__ import annotations

from nemo_workflow.models.families.base import Config, Family, Field, Rule
from nemo_workflow.models.families.dense import (
    DECODER,
    HF_LAYER,
    LAYER,
    PLAIN_DECODER,
    PLAIN_ROPE_NEMO,
    ROPE_HF,
    TIED,
    attention_rules,
    embedding_rules,
    layer_norm_bias_rules,
    phi3_special,
    plain_mlp_rules,
    rope_and_window_back,
    with_default,
)


def rules(hf: Config) -> list[Rule]:
    """Biases everywhere."""
    return [
        *embedding_rules(hf),
        *attention_rules(bias=True),
        *plain_mlp_rules("c_fc", "c_proj"),
        *layer_norm_bias_rules(),
        Rule("copy", f"{LAYER}self_attention.linear_proj.bias", (f"{HF_LAYER}self_attn.o_proj.bias",)),
        Rule("copy", f"{LAYER}mlp.linear_fc1.bias", (f"{HF_LAYER}mlp.c_fc.bias",)),
        Rule("copy", f"{LAYER}mlp.linear_fc2.bias", (f"{HF_LAYER}mlp.c_proj.bias",)),
    ]


STARCODER2 = Family(
    name="starcoder2",
    title="StarCoder 2",
    model_type="starcoder2",
    architecture="Starcoder2ForCausalLM",
    module="starcoder2",
    model_class="Starcoder2Model",
    config_class="Starcoder2Config",
    rules=rules,
    fields=(
        *with_default(DECODER, initializer_range=0.018042),
        Field("norm_epsilon", "layernorm_epsilon", 1e-5),
        Field("residual_dropout", "hidden_dropout", 0.0),
        TIED,
    ),
    fixed={"hidden_act": ("gelu_pytorch_tanh",), "use_bias": (True,)},
    nemo_fixed={
        **{name: value for name, value in PLAIN_DECODER.items() if name != "window_size"},
        "activation_func": "torch._C._nn.gelu",
        "add_bias_linear": True,
        "gated_linear_unit": False,
        "normalization": "LayerNorm",
    },
    special=phi3_special,
    # Megatron drops out the embedding at the layers' rate, in training only
    special_fields=ROPE_HF | {"sliding_window", "embedding_dropout"},
    special_nemo=PLAIN_ROPE_NEMO | {"window_size"},
    special_back=rope_and_window_back,
    tanh_gelu=True,
)

FAMILIES = (STARCODER2,)
