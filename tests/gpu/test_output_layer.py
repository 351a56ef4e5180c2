"""The fused output layer against float64: on a GPU, or where there is none with Triton's interpreter (pip install triton)."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused accumulation"])
def test_tied_embedding_with_a_masked_loss(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def accumulate(inputs: Any, gradient: Any, main_grad: Any) -> None:
        main_grad.add_(gradient.float().t() @ inputs.float())

    module = types.SimpleNamespace(wgrad_gemm_accum_fp32=accumulate)
    monkeypatch.setitem(sys.modules, "fused_weight_gradient_mlp_cuda", module)
    from nemo_workflow.gpu_backend import output_layer

    monkeypatch.setattr(output_layer, "BLOCK", 256)  # several blocks a row, the last one not full
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    vocabulary, width, length, batch = 1000, 64, 16, 2
    table = torch.nn.Parameter((torch.randn(vocabulary, width, device=device) * 0.1).bfloat16())
    table.main_grad, table.zero_out_wgrad = torch.zeros(vocabulary, width, device=device), True
    tokens = torch.randint(0, vocabulary, (length, batch), device=device)
    labels = torch.randint(0, vocabulary, (length * batch,), device=device)
    mask = (torch.rand(length * batch, device=device) > 0.2).float()

    hidden = torch.tanh(torch.nn.functional.embedding(tokens, table) * 3).reshape(-1, width)
    losses = output_layer._OutputLoss.apply(hidden, table, labels, fused)
    ((losses * mask).sum() / mask.sum()).backward()
    found = table.grad.float() + (table.main_grad if fused else 0)

    exact = table.detach().double().requires_grad_()
    logits = torch.tanh(exact[tokens] * 3).reshape(-1, width) @ exact.t()
    wanted = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    ((wanted * mask).sum() / mask.sum()).backward()
    assert torch.allclose(losses.double(), wanted, atol=0.03)
    assert (found - exact.grad).norm() / exact.grad.norm() < 0.01
