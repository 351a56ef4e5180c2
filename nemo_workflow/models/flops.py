"""Floating-point operations per token, and what a GPU could do: the two halves of MFU.

The formula is that of NVIDIA's performance tables since NeMo 25.09 (and of PaLM's appendix B, arXiv 2204.02311, with the
causal half of attention only): forward and backward pass cost 6 operations a parameter of a matrix product, the
output matrix included and the embedding not, plus 3 x (key width + value width) x heads x sequence length a layer for
the scores that a causal mask leaves. Recomputation is not counted as work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_workflow.utils import gpus


def peak_of(device: str) -> float | None:
    """Dense bf16 operations per second of the GPU called `device` (as the driver names it), None if not in the table."""
    gpu = gpus.by_driver_name(device)
    return gpu.bf16 * 1e12 if gpu else None


def flops_a_token(family: str, sizes: Mapping[str, Any], vocabulary: int, seq_length: int) -> float | None:
    """Operations of forward and backward pass a token of a decoder; None for families without this formula."""
    if family != "gpt":
        return None
    h, layers = sizes["hidden_size"], sizes["num_layers"]
    projections, width = _attention(sizes)
    products = layers * projections + sum(_mlp(sizes, number) for number in range(layers)) + h * vocabulary
    return 6.0 * products + 3.0 * layers * sizes["num_attention_heads"] * width * seq_length


def _attention(sizes: Mapping[str, Any]) -> tuple[int, int]:
    """(parameters of the products around attention, key width + value width of a head)."""
    h, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if sizes.get("multi_latent_attention"):
        rank, rope, value = sizes["kv_lora_rank"], sizes["qk_pos_emb_head_dim"], sizes["v_head_dim"]
        key = sizes["qk_head_dim"] + rope
        query_rank = sizes["q_lora_rank"]
        query = h * query_rank + query_rank * heads * key if query_rank else h * heads * key
        latent = h * (rank + rope) + rank * heads * (sizes["qk_head_dim"] + value)
        return query + latent + heads * value * h, key + value
    groups, width = sizes["num_query_groups"] or heads, sizes["kv_channels"] or h // heads
    return h * width * (2 * heads + 2 * groups), 2 * width


def _mlp(sizes: Mapping[str, Any], number: int) -> int:
    """Parameters that a token meets in the MLP of layer `number`: of experts only those it is sent to."""
    h, matrices = sizes["hidden_size"], 3 if sizes["gated_linear_unit"] else 2
    experts = sizes.get("num_moe_experts")
    frequency = sizes.get("moe_layer_freq") or 1
    here = frequency[number] if isinstance(frequency, list) else number % frequency == 0
    if not experts or not here:
        return matrices * h * int(sizes["ffn_hidden_size"])
    routed = sizes["moe_router_topk"] * (sizes["moe_ffn_hidden_size"] or sizes["ffn_hidden_size"])
    return matrices * h * (routed + (sizes.get("moe_shared_expert_intermediate_size") or 0)) + h * experts
