"""The fused output layer against float64: on a GPU, or where there is none with Triton's interpreter (pip install triton)."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from nemo_workflow.backends import memory_pool
from tests.backends.gpu.interpreted import DEVICE

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
BLOCK = 256  # of the columns that one turn of the kernel's loop takes


@pytest.fixture
def output_layer(monkeypatch: pytest.MonkeyPatch) -> Any:
    def accumulate(inputs: Any, gradient: Any, main_grad: Any) -> None:
        main_grad.add_(gradient.float().t() @ inputs.float())

    module = types.SimpleNamespace(wgrad_gemm_accum_fp32=accumulate)
    monkeypatch.setitem(sys.modules, "fused_weight_gradient_mlp_cuda", module)
    from nemo_workflow.backends.gpu import output_layer

    monkeypatch.setattr(output_layer, "BLOCK", BLOCK)
    return output_layer


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused accumulation"])
def test_tied_embedding_with_a_masked_loss(fused: bool, output_layer: Any) -> None:
    torch.manual_seed(0)
    vocabulary, width, length, batch = 1000, 64, 16, 2
    table = torch.nn.Parameter((torch.randn(vocabulary, width, device=DEVICE) * 0.1).bfloat16())
    table.main_grad, table.zero_out_wgrad = torch.zeros(vocabulary, width, device=DEVICE), True
    tokens = torch.randint(0, vocabulary, (length, batch), device=DEVICE)
    labels = torch.randint(0, vocabulary, (length * batch,), device=DEVICE)
    mask = (torch.rand(length * batch, device=DEVICE) > 0.2).float()

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


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("vocabulary", [1, 255, 256, 257, 512, 513, 1000])
def test_loss_and_gradients_at_every_border_of_a_block(vocabulary: int, kind: str, output_layer: Any) -> None:
    """Labels on the first and last column of each block, one label that doesn't count, and logits far from zero."""
    torch.manual_seed(vocabulary)
    borders = [at for start in range(0, vocabulary + 1, BLOCK) for at in (start - 1, start)]
    labels = torch.tensor([at for at in borders if 0 <= at < vocabulary] + [vocabulary - 1, -100], device=DEVICE)
    dtype, width = getattr(torch, kind), 32
    hidden = (torch.randn(len(labels), width, device=DEVICE) * 4).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, device=DEVICE).to(dtype).requires_grad_()
    scale = torch.rand(len(labels), device=DEVICE)
    losses = output_layer._OutputLoss.apply(hidden, weight, labels, False)
    (losses * scale).sum().backward()

    x, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    logits = x @ w.t()
    logits = logits + (logits.detach().to(dtype).double() - logits.detach())  # rounded as ours, gradients exact
    wanted = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    (wanted * scale).sum().backward()
    near = 1e-5 if kind == "float32" else 1e-2
    assert losses.dtype == torch.float32
    assert losses[-1] == 0
    assert hidden.grad[-1].abs().max() == 0
    assert torch.allclose(losses.double(), wanted, rtol=1e-5, atol=2e-5)
    for found, exact in ((hidden.grad, x.grad), (weight.grad, w.grad)):
        assert (found.double() - exact).norm() <= near * exact.norm() + 1e-6


def test_it_stands_aside_under_tensor_parallelism(output_layer: Any) -> None:
    """Each rank has a part of the vocabulary then: Megatron's own loss must do it."""
    memory_pool.leave_out()
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear

    layer = ColumnParallelLinear.__new__(ColumnParallelLinear)
    torch.nn.Module.__init__(layer)
    layer.bias = None
    config = types.SimpleNamespace(tensor_model_parallel_size=1, cross_entropy_loss_fusion=True)
    model = types.SimpleNamespace(training=True, post_process=True, output_layer=layer, config=config)
    given = {"labels": torch.zeros(1), "hidden_states": torch.zeros(1, dtype=torch.bfloat16)}
    assert output_layer.fits(model, given)
    config.tensor_model_parallel_size = 2
    assert not output_layer.fits(model, given)
