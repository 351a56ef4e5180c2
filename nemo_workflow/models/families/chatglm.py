"""ChatGLM 2 and 3, and GLM 4 in the same form: half of each head is rotated, in pairs of neighbours; biases in q, k and v alone.

Their code comes with the weights and is never run; transformers' GLM computes the same.
"""

from __future__ import annotations

from nemo_workflow.models.families.base import Config, Family, Field, Reference, Rule
from nemo_workflow.models.families.dense import LAYER, PLAIN_DECODER, UNTIED

HF_LAYER = "transformer.encoder.layers.{l}."
QKV = f"{HF_LAYER}self_attention.query_key_value."
GLM_LAYER = "model.layers.{l}."  # of transformers' GLM
THETA = 10000.0  # of the rotary positions, times rope_ratio
CHATGLM_ENTRIES = 65024  # of the vocabulary of ChatGLM 2 and 3; GLM 4's multiplies the base
# the scaling by layer is taken back before the softmax; the others say how it is computed, or matter with pre_seq_len alone
UNREAD = frozenset(
    {"apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion", "prefix_projection"}
)
# NeMo's tensors -> the folder's, which lie in the same order
SAME = {
    "decoder.final_layernorm.weight": "transformer.encoder.final_layernorm.weight",
    f"{LAYER}self_attention.linear_proj.weight": f"{HF_LAYER}self_attention.dense.weight",
    f"{LAYER}self_attention.linear_qkv.layer_norm_weight": f"{HF_LAYER}input_layernorm.weight",
    f"{LAYER}mlp.linear_fc1.weight": f"{HF_LAYER}mlp.dense_h_to_4h.weight",
    f"{LAYER}mlp.linear_fc1.layer_norm_weight": f"{HF_LAYER}post_attention_layernorm.weight",
    f"{LAYER}mlp.linear_fc2.weight": f"{HF_LAYER}mlp.dense_4h_to_h.weight",
}
EMBEDDING, OUTPUT = "transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"


def rules(hf: Config) -> list[Rule]:
    """All of q, then all of k, then all of v in one tensor, gate and up in another."""
    projections = ("weight", "bias") if hf["add_qkv_bias"] else ("weight",)
    return [
        Rule("vocab", "embedding.word_embeddings.weight", (EMBEDDING,)),
        Rule("vocab", "output_layer.weight", (OUTPUT,)),
        *(Rule("copy", nemo, (name,)) for nemo, name in SAME.items()),
        *(Rule("qkv_stacked", f"{LAYER}self_attention.linear_qkv.{what}", (QKV + what,)) for what in projections),
    ]


def ratio(hf: Config) -> float:
    """rope_ratio, by which the rotary base is multiplied. Raises ValueError for what is no such number."""
    found = hf.get("rope_ratio")
    if found is None:
        return 1
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1e12:
        raise ValueError(f"rope_ratio is {found!r}; a number above 0 is expected")
    return found


def special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    """The rotary base; what a missing multi_query_attention means. NeMo's default would pad any vocabulary to a multiple of 65,024."""
    losses = []
    if not hf.get("multi_query_attention", False):
        losses.append(("multi_query_attention", "only models with groups of keys and values (true) are converted"))
    if ratio(hf) != 1 and hf["vocab_size"] == CHATGLM_ENTRIES:
        losses.append((
            "rope_ratio",
            "ChatGLM 2's code divides the positions by it and ChatGLM 3's multiplies the rotary base by it, and config.json"
            " doesn't say whose it is; with permission it is taken for ChatGLM 3's",
        ))  # fmt: skip
    return {"rotary_base": THETA * ratio(hf), "make_vocab_size_divisible_by": 128}, losses


def special_back(nemo: Config) -> Config:
    times = nemo.get("rotary_base", THETA) / THETA
    return {"multi_query_attention": True, "rope_ratio": int(times) if times == int(times) else times}


def refuses(raw: Config) -> str | None:
    """The first ChatGLM has the same model_type."""
    if "position_encoding_2d" in raw or "inner_hidden_size" in raw:
        return (
            "ChatGLM 1 is not converted: it has two-dimensional positions and sees its prompt in both directions, and NeMo's"
            " ChatGLMModel has neither; ChatGLM 2 and 3 are converted"
        )
    return None


def as_glm(hf: Config) -> Config:
    """The config.json of transformers' GLM."""
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings")  # fmt: skip
    return {
        **{name: hf[name] for name in same},
        "attention_bias": hf["add_qkv_bias"],
        "rms_norm_eps": hf["layernorm_epsilon"],
        "rope_theta": THETA * ratio(hf),
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
        "pad_token_id": None,
    }


CHATGLM = Family(
    name="chatglm",
    title="ChatGLM 2 and 3, GLM 4 9B with model_type chatglm",
    model_type="chatglm",
    architecture="ChatGLMModel",
    other_architectures=("ChatGLMForConditionalGeneration",),
    module="chatglm",
    model_class="ChatGLMModel",
    config_class="ChatGLMConfig",
    rules=rules,
    renamed={
        "num_layers": "num_hidden_layers",
        "ffn_hidden_size": "intermediate_size",
        "multi_query_group_num": "num_key_value_heads",
        "kv_channels": "head_dim",
        "seq_length": "max_position_embeddings",
        "padded_vocab_size": "vocab_size",
    },
    fields=(
        Field("num_hidden_layers", "num_layers"),
        Field("hidden_size", "hidden_size"),
        Field("intermediate_size", "ffn_hidden_size"),
        Field("num_attention_heads", "num_attention_heads"),
        Field("num_key_value_heads", "num_query_groups", 1),
        Field("head_dim", "kv_channels"),
        Field("max_position_embeddings", "seq_length"),
        Field("vocab_size", "vocab_size"),
        Field("layernorm_epsilon", "layernorm_epsilon", 1e-5),
        Field("add_qkv_bias", "add_qkv_bias", False),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("hidden_dropout", "hidden_dropout", 0.0),
        UNTIED,
    ),
    fixed={
        "rmsnorm": (True,),
        "post_layer_norm": (True,),
        "add_bias_linear": (False,),
        "apply_residual_connection_post_layernorm": (False,),
        "fp32_residual_connection": (False,),
        "original_rope": (True,),
        "interleaved_qkv": (False,),
        "tie_word_embeddings": (False,),
        "pre_seq_len": (0, None),
        "quantization_bit": (None, 0),
    },
    nemo_fixed={
        **{name: value for name, value in PLAIN_DECODER.items() if name != "add_qkv_bias"},
        "rotary_interleaved": True,
        "rotary_percent": 0.5,
        "share_embeddings_and_output_weights": False,
        "seq_len_interpolation_factor": None,
    },
    special=special,
    special_fields=UNREAD | {"rope_ratio", "multi_query_attention"},
    special_nemo=frozenset({"rotary_base"}),
    special_back=special_back,
    refuses=refuses,
    reference=Reference(
        model_type="glm",
        config=as_glm,
        tensors={
            "model.embed_tokens.weight": (EMBEDDING, ""),
            "lm_head.weight": (OUTPUT, ""),
            "model.norm.weight": ("transformer.encoder.final_layernorm.weight", ""),
            **{
                f"{GLM_LAYER}{norm}.weight": (f"{HF_LAYER}{norm}.weight", "")
                for norm in ("input_layernorm", "post_attention_layernorm")
            },
            **{
                f"{GLM_LAYER}self_attn.{name}_proj.{what}": (QKV + what, name)
                for name in "qkv"
                for what in ("weight", "bias")
            },
            f"{GLM_LAYER}self_attn.o_proj.weight": (f"{HF_LAYER}self_attention.dense.weight", ""),
            f"{GLM_LAYER}mlp.gate_up_proj.weight": (f"{HF_LAYER}mlp.dense_h_to_4h.weight", ""),
            f"{GLM_LAYER}mlp.down_proj.weight": (f"{HF_LAYER}mlp.dense_4h_to_h.weight", ""),
        },
    ),
)

FAMILIES = (CHATGLM,)
