"""Operations per token, counted by hand for small models, and the peaks of GPUs by their driver's names."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_workflow.models.flops import flops_a_token, peak_of

DENSE: dict[str, Any] = {
    "hidden_size": 8, "num_layers": 2, "num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 3,
    "ffn_hidden_size": 16, "gated_linear_unit": True,
}  # fmt: skip
EXPERTS = {"num_moe_experts": 5, "moe_router_topk": 2, "moe_ffn_hidden_size": 6}
LATENT = {
    "multi_latent_attention": True, "kv_lora_rank": 5, "qk_pos_emb_head_dim": 2, "v_head_dim": 3, "qk_head_dim": 4,
    "q_lora_rank": 7,
}  # fmt: skip
ATTENTION = 8 * 3 * (2 * 4 + 2 * 2)  # Q and output for 4 heads, K and V for 2 groups
MLP = 3 * 8 * 16
OUTPUT = 8 * 100
SCORES = 3 * 2 * 4 * 6 * 32  # 3 x layers x heads x (key + value width) x length


@pytest.mark.parametrize(
    ("change", "attention", "mlps", "scores"),
    [
        ({}, ATTENTION, 2 * MLP, SCORES),
        ({"gated_linear_unit": False}, ATTENTION, 2 * 2 * 8 * 16, SCORES),
        ({"num_query_groups": None}, 8 * 3 * 16, 2 * MLP, SCORES),
        ({"kv_channels": None}, 8 * 2 * 12, 2 * MLP, 3 * 2 * 4 * 4 * 32),
        (
            {"kv_channels": None, "num_attention_heads": 3, "num_query_groups": None},
            8 * 2 * 12,
            2 * MLP,
            3 * 2 * 3 * 4 * 32,
        ),
        (EXPERTS, ATTENTION, 2 * (3 * 8 * 2 * 6 + 8 * 5), SCORES),
        (EXPERTS | {"moe_ffn_hidden_size": None}, ATTENTION, 2 * (3 * 8 * 2 * 16 + 8 * 5), SCORES),
        (EXPERTS | {"moe_shared_expert_intermediate_size": 4}, ATTENTION, 2 * (3 * 8 * (2 * 6 + 4) + 8 * 5), SCORES),
        (EXPERTS | {"moe_layer_freq": 2}, ATTENTION, MLP + 3 * 8 * 2 * 6 + 8 * 5, SCORES),
        (EXPERTS | {"moe_layer_freq": [0, 1]}, ATTENTION, MLP + 3 * 8 * 2 * 6 + 8 * 5, SCORES),
        (EXPERTS | {"moe_layer_freq": [0, 0]}, ATTENTION, 2 * MLP, SCORES),
        (LATENT, (8 * 7 + 7 * 4 * 6) + (8 * 7 + 5 * 4 * 7) + 4 * 3 * 8, 2 * MLP, 3 * 2 * 4 * 9 * 32),
        (LATENT | {"q_lora_rank": None}, 8 * 4 * 6 + (8 * 7 + 5 * 4 * 7) + 4 * 3 * 8, 2 * MLP, 3 * 2 * 4 * 9 * 32),
    ],
)
def test_operations_per_token(change: dict[str, Any], attention: int, mlps: int, scores: int) -> None:
    assert flops_a_token("gpt", DENSE | change, 100, 32) == 6 * (2 * attention + mlps + OUTPUT) + scores


def test_other_families_have_no_formula() -> None:
    assert flops_a_token("ssm", DENSE, 100, 32) is None


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA GeForce RTX 4090", 165.2e12), ("Some Card", None)]
)
def test_the_peak_of_a_gpu(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak
