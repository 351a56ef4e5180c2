"""Transformer Engine's sorting of tokens by experts, with the Triton that is installed."""

from __future__ import annotations

import pytest

from nemo_workflow.backends.gpu import permutation
from tests.later import later

torch, te = later("torch"), later("transformer_engine.pytorch")


@pytest.mark.gpu
def test_tokens_are_sorted_by_their_experts() -> None:
    permutation.install()
    torch.manual_seed(0)
    tokens = torch.randn(64, 32, device="cuda", dtype=torch.bfloat16)
    chosen = torch.zeros(64, 8, device="cuda", dtype=torch.bool)
    chosen.scatter_(1, torch.rand(64, 8, device="cuda").topk(2).indices, True)
    sorted_tokens, _ = te.moe_permute(tokens, chosen.int(), num_out_tokens=128, map_type="mask")
    assert torch.equal(sorted_tokens, torch.cat([tokens[column] for column in chosen.T]))
