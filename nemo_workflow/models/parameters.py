"""Parameters of a model from the sizes of its configuration, without building it.

The counts follow the modules that NeMo and megatron-core build (GPTModel, MambaModel, HyenaModel, T5Model, BertModel)
and equal theirs; a test builds them on the meta device. `h` below is the hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Sizes = Mapping[str, Any]


@dataclass(frozen=True)
class Count:
    """Parameters by how tensor and expert parallelism treat them."""

    sharded: int = 0  # split over the tensor parallel ranks
    replicated: int = 0  # whole on each of them
    expert: int = 0  # split over the expert parallel and expert tensor parallel ranks

    def __add__(self, other: Count) -> Count:
        return Count(self.sharded + other.sharded, self.replicated + other.replicated, self.expert + other.expert)

    @property
    def total(self) -> int:
        return self.sharded + self.replicated + self.expert


@dataclass(frozen=True)
class Model:
    """Parameters of the parts of a model. `layers` has one entry per layer, an encoder's first."""

    embedding: Count
    layers: tuple[Count, ...]
    final: Count  # last norm and everything after the layers but the output matrix
    output: Count  # the output matrix; nothing when it is the embedding's

    @property
    def total(self) -> int:
        return sum(self.layers, self.embedding + self.final + self.output).total


def padded_vocabulary(sizes: Sizes, tokenizer_vocab: int, tensor: int = 1) -> int:
    """Rows of the embedding: the configuration's own, else the tokenizer's padded as NeMo's get_vocab_size does."""
    if sizes.get("vocab_size"):
        return int(sizes["vocab_size"])
    multiple = (sizes.get("make_vocab_size_divisible_by") or 128) * tensor
    return -(-tokenizer_vocab // multiple) * multiple


def count(family: str, model_class: str, sizes: Sizes, vocabulary: int) -> Model:
    """Parameters of a model with `vocabulary` embedding rows. `family` is the catalogue's."""
    h = sizes["hidden_size"]
    embedding = Count(sharded=vocabulary * h)
    if sizes.get("position_embedding_type") == "learned_absolute":
        embedding += Count(replicated=_positions(family, sizes) * h)
    output = Count() if sizes.get("share_embeddings_and_output_weights") else Count(sharded=vocabulary * h)
    layers = _LAYERS[family](sizes, model_class)
    final = Count(replicated=_norm(sizes, h))
    if family == "bert":
        # the head of the masked language model: dense layer, norm, a bias per word
        final += Count(replicated=h * h + h + _norm(sizes, h), sharded=vocabulary)
    if family == "t5":
        # the encoder has a last norm too, and the output matrix is the embedding with a bias per word
        final += Count(replicated=_norm(sizes, h), sharded=vocabulary)
        if sizes.get("position_embedding_type") == "relative":
            final += Count(replicated=2 * sizes["relative_attention_num_buckets"] * sizes["num_attention_heads"])
    return Model(embedding, layers, final, output)


def _positions(family: str, sizes: Sizes) -> int:
    if family == "t5":
        return int(sizes["max_position_embeddings"])
    return int(sizes["seq_length"])


def _norm(sizes: Sizes, width: int) -> int:
    """LayerNorm has a weight and a bias, RMSNorm a weight."""
    return width * (2 if sizes["normalization"] == "LayerNorm" else 1)


def _attention(sizes: Sizes, cross: bool = False) -> Count:
    """Norm, QKV product, output product. A cross attention has the same matrices."""
    h, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    width = sizes["kv_channels"]
    groups = heads if cross else sizes["num_query_groups"] or heads
    qkv, out = (heads + 2 * groups) * width, heads * width
    found = Count(sharded=h * (qkv + out), replicated=_norm(sizes, h))
    if sizes["add_bias_linear"] or sizes.get("add_qkv_bias"):
        found += Count(sharded=qkv)
    if sizes["add_bias_linear"] or sizes.get("add_attn_proj_bias"):
        found += Count(replicated=h)
    if sizes.get("qk_layernorm"):
        found += Count(replicated=2 * _norm(sizes, width))
    return found


def _latent_attention(sizes: Sizes) -> Count:
    """DeepSeek's multi-latent attention (megatron-core: MLASelfAttention)."""
    h, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    query_rank, rank = sizes["q_lora_rank"], sizes["kv_lora_rank"]
    rope = sizes["qk_pos_emb_head_dim"]
    query = heads * (sizes["qk_head_dim"] + rope)
    found = Count(
        sharded=rank * heads * (sizes["qk_head_dim"] + sizes["v_head_dim"]) + heads * sizes["v_head_dim"] * h,
        replicated=_norm(sizes, h) + h * (rank + rope) + _norm(sizes, rank),
    )
    if query_rank:
        return found + Count(sharded=query_rank * query, replicated=h * query_rank + _norm(sizes, query_rank))
    return found + Count(sharded=h * query)


def _mlp(sizes: Sizes) -> Count:
    h, ffn = sizes["hidden_size"], sizes["ffn_hidden_size"]
    first = ffn * (2 if sizes["gated_linear_unit"] else 1)
    found = Count(sharded=h * (first + ffn), replicated=_norm(sizes, h))
    if sizes["add_bias_linear"]:
        found += Count(sharded=first, replicated=h)
    return found


def _experts(sizes: Sizes) -> Count:
    """Norm, router, experts, and the expert that every token passes."""
    h, experts, ffn = sizes["hidden_size"], sizes["num_moe_experts"], sizes["moe_ffn_hidden_size"]
    matrices = 3 if sizes["gated_linear_unit"] else 2
    shared = sizes.get("moe_shared_expert_intermediate_size") or 0
    return Count(
        sharded=matrices * h * shared,
        replicated=_norm(sizes, h) + experts * h,
        expert=experts * matrices * h * ffn,
    )


def is_expert_layer(sizes: Sizes, number: int) -> bool:
    """Whether layer `number` (from 0) is a mixture of experts."""
    if not sizes.get("num_moe_experts"):
        return False
    frequency = sizes.get("moe_layer_freq") or 1
    return bool(frequency[number]) if isinstance(frequency, list) else number % frequency == 0


def _decoder_layers(sizes: Sizes, model_class: str) -> tuple[Count, ...]:
    attention = _latent_attention(sizes) if sizes.get("multi_latent_attention") else _attention(sizes)
    if model_class in ("Gemma2Model", "Gemma3Model"):  # a norm after attention and after the MLP too
        attention += Count(replicated=2 * _norm(sizes, sizes["hidden_size"]))
    if model_class == "Gemma3Model":  # its layer norms queries and keys, whatever the field says
        attention += Count(replicated=2 * _norm(sizes, sizes["kv_channels"]))
    dense, experts = attention + _mlp(sizes), attention + _experts(sizes) if sizes.get("num_moe_experts") else attention
    layers = [experts if is_expert_layer(sizes, number) else dense for number in range(sizes["num_layers"])]
    h = sizes["hidden_size"]
    for _ in range(sizes.get("mtp_num_layers") or 0):
        # multi-token prediction: two norms, a product of their concatenation, a layer like the last, a norm
        layers.append(layers[-1] + Count(sharded=2 * h * h, replicated=3 * _norm(sizes, h)))
    return tuple(layers)


def _mamba_layer(sizes: Sizes) -> Count:
    """Mamba 2 (megatron-core: MambaMixer with a convolution of 4 steps)."""
    h, head, state = sizes["hidden_size"], sizes["mamba_head_dim"], sizes["mamba_state_dim"]
    heads = sizes.get("mamba_num_heads") or 2 * h // head
    inner, shared = heads * head, 2 * sizes["mamba_num_groups"] * state
    return Count(
        sharded=h * (2 * inner + shared + heads) + (inner + shared) * 5 + 3 * heads + inner + inner * h,
        replicated=_norm(sizes, h),
    )


def _pattern_layers(sizes: Sizes, _: str) -> tuple[Count, ...]:
    """M is Mamba, * attention, - an MLP."""
    kinds = {"M": _mamba_layer, "*": _attention, "-": _mlp}
    return tuple(kinds[letter](sizes) for letter in sizes["hybrid_override_pattern"])


def _hyena_layers(sizes: Sizes, _: str) -> tuple[Count, ...]:
    """S, D, H are the short, medium and long convolution, * attention; each is followed by an MLP."""
    h = sizes["hidden_size"]
    operator = Count(sharded=3 * h * h + 9 * h + h * h, replicated=_norm(sizes, h) + h)
    short = sizes["num_groups_hyena_short"]
    kinds = {
        "S": operator + Count(sharded=7 * short + (short if sizes["use_short_conv_bias"] else 0)),
        "D": operator + Count(sharded=128 * sizes["num_groups_hyena_medium"] + h),
        "H": operator + Count(sharded=3 * 16 * sizes["num_groups_hyena"] + h),
        "*": _attention(sizes),
    }
    return tuple(kinds[letter] + _mlp(sizes) for letter in sizes["hybrid_override_pattern"])


def _encoder_decoder_layers(sizes: Sizes, _: str) -> tuple[Count, ...]:
    encoder = _attention(sizes) + _mlp(sizes)
    decoder = encoder + _attention(sizes, cross=True)
    return (encoder,) * sizes["encoder_num_layers"] + (decoder,) * sizes["num_layers"]


_LAYERS = {
    "gpt": _decoder_layers,
    "bert": _decoder_layers,
    "ssm": _pattern_layers,
    "hyena": _hyena_layers,
    "t5": _encoder_decoder_layers,
}
