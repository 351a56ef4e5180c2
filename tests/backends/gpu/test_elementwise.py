"""SwiGLU's gradient and the rotary embedding on the joint product, against autograd in float64; see test_output_layer.py."""

from __future__ import annotations

import types
from typing import Any

import pytest

from nemo_workflow.backends import memory_pool
from tests.backends.gpu.interpreted import DEVICE, ROUNDING

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("width", [8, 1000, 2048, 2049])
def test_gradient_of_swiglu(width: int) -> None:
    from nemo_workflow.backends.gpu import activation

    torch.manual_seed(width)
    joint = (torch.randn(3, 2, 2 * width, device=DEVICE) * 3).bfloat16()
    above = torch.randn(3, 2, width, device=DEVICE).bfloat16()
    exact = joint.double().requires_grad_()
    gate, up = exact.chunk(2, -1)
    (torch.nn.functional.silu(gate) * up).backward(above.double())
    found = activation.swiglu_gradient(above, joint)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), exact.grad, rtol=ROUNDING, atol=1e-6)


def test_only_plain_bf16_takes_our_gradient() -> None:
    from nemo_workflow.backends.gpu import activation

    joint, above = torch.zeros(2, 8).bfloat16(), torch.zeros(2, 4).bfloat16()
    assert activation.fits(above, joint)
    assert not activation.fits(above.float(), joint)
    assert not activation.fits(above, torch.zeros(8, 2).bfloat16().t())


def rotated(x: Any, angles: Any) -> Any:
    """As megatron-core does it: halves, not pairs."""
    left, right = x.chunk(2, -1)
    return x * angles.cos() + torch.cat((-right, left), -1) * angles.sin()


@pytest.mark.parametrize(("groups", "queries", "width"), [(2, 3, 64), (1, 1, 32), (3, 4, 128)])
def test_rotary_on_the_joint_product(groups: int, queries: int, width: int) -> None:
    from nemo_workflow.backends.gpu import rotary

    torch.manual_seed(0)
    length, batch = 5, 2
    frequencies = 1.0 / 10_000 ** (torch.arange(0, width, 2, device=DEVICE) / width)
    angles = torch.outer(torch.arange(length + 3, device=DEVICE) * 1000.0, frequencies)  # longer than the sequence
    angles = torch.cat((angles, angles), -1)[:, None, None, :]
    joint = torch.randn(length, batch, groups, (queries + 2) * width, device=DEVICE).bfloat16().requires_grad_()
    assert rotary.fits(joint, angles, angles, [queries * width, width, width])
    query, key, value = rotary.Rotary.apply(joint, angles, width)

    exact = joint.detach().double().requires_grad_()
    q, k, v = exact.split([queries * width, width, width], -1)
    turn = angles[:length].double()
    wanted = (rotated(q.reshape(length, batch, groups * queries, width), turn), rotated(k, turn), v)
    gradients = []
    for found, right in zip((query, key, value), wanted, strict=True):
        assert found.shape == right.shape
        assert torch.allclose(found.double(), right, rtol=ROUNDING, atol=2e-3)
        gradients.append(torch.randn(found.shape, device=DEVICE).bfloat16())
    torch.autograd.backward((query, key, value), gradients)
    torch.autograd.backward(wanted, [gradient.double() for gradient in gradients])
    assert torch.allclose(joint.grad.double(), exact.grad, rtol=ROUNDING, atol=2e-3)
    assert torch.equal(value, joint[..., (queries + 1) * width :].reshape(value.shape))


def test_what_is_not_plain_goes_to_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_pool.leave_out()
    from megatron.core.transformer import attention

    from nemo_workflow.backends.gpu import rotary

    asked: list[Any] = []
    monkeypatch.setattr(
        attention, "apply_fused_qkv_rotary_pos_emb", lambda *a, **k: asked.append((a, k)), raising=False
    )
    rotary.install()
    joint, split = torch.zeros(4, 1, 2, 4 * 32).bfloat16(), [64, 32, 32]
    angles = torch.zeros(4, 1, 1, 32)
    run = attention.apply_fused_qkv_rotary_pos_emb
    run(joint, angles, angles.clone(), split)  # queries and keys by other angles
    run(joint, angles[..., :16], angles[..., :16], split)  # a part of the head only
    run(joint, angles, angles, split, cp_size=2)
    run(joint.float(), angles, angles, split)
    assert len(asked) == 4


def test_swiglu_of_megatron_takes_our_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_pool.leave_out()
    from megatron.core.fusions import fused_bias_swiglu

    from nemo_workflow.backends.gpu import activation

    stock = fused_bias_swiglu.SwiGLUFunction.backward
    monkeypatch.setattr(fused_bias_swiglu.SwiGLUFunction, "backward", staticmethod(stock))
    activation.install()
    ctx = types.SimpleNamespace(fp8_input_store=False, saved_tensors=[torch.randn(2, 8, device=DEVICE).bfloat16()])
    above = torch.randn(2, 4, device=DEVICE).bfloat16()
    found, *nothing = fused_bias_swiglu.SwiGLUFunction.backward(ctx, above)
    assert torch.equal(found, activation.swiglu_gradient(above, ctx.saved_tensors[0]))
    assert nothing == [None, None]
