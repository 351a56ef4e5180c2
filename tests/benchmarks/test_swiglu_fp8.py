"""SwiGLU and its gradient cast to fp8 in their own kernels, against PyTorch's casts; see tests/backends/gpu/test_output_layer.py for the interpreter."""

from __future__ import annotations

import types
from typing import Any

import pytest

from nemo_workflow.backends import memory_pool
from tests.backends.gpu.interpreted import DEVICE

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
KINDS = [torch.float8_e4m3fn, torch.float8_e5m2]
# A GPU rounds as PyTorch does, but for the last bit of exp. Triton's interpreter cuts, and where a number should have become the
# next power of two it keeps the exponent.
STEPS, FURTHER = (0, 1e-3) if DEVICE == "cuda" else (2, 0.12)


class Quantizer:
    """As much of Transformer Engine's Float8Quantizer as its layers use; its bytes come back as numbers."""

    def __init__(self, name: str, scale: float):
        self.dtype = types.SimpleNamespace(name=name)
        self.scale = torch.full((1,), scale, device=DEVICE)
        self.amax = torch.zeros(1, device=DEVICE)
        self.rowwise_usage = self.columnwise_usage = self.internal = True
        self.asked = 0

    def quantize_impl(self, tensor: Any) -> Any:
        self.asked += 1
        return tensor.clone()

    def __call__(self, tensor: Any) -> Any:
        return self.quantize_impl(tensor)


Quantizer.__name__ = "Float8Quantizer"


def cast(value: Any, scale: float, kind: Any) -> Any:
    """What a quantizer of this scale makes of a bf16 tensor, by PyTorch: bytes."""
    most = torch.finfo(kind).max
    return (value.bfloat16().float() * scale).clamp(-most, most).to(kind).view(torch.uint8)


def exact(joint: Any, above: Any) -> tuple[Any, Any]:
    leaf = joint.float().requires_grad_()
    gate, up = leaf.chunk(2, -1)
    value = torch.nn.functional.silu(gate) * up
    return value.detach(), torch.autograd.grad(value, leaf, above.float())[0]


def further_apart(left: Any, right: Any) -> float:
    """The share of bytes that lie more than STEPS of fp8 apart: bytes of numbers of one sign are in the numbers' order."""
    ordered = [torch.where(tensor > 127, 128 - tensor.int(), tensor.int()) for tensor in (left, right)]
    return float(((ordered[0] - ordered[1]).abs() > STEPS).float().mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tokens", "width"), [((3, 4), 96), ((130, 2), 130), ((1, 4), 1000)])
def test_bytes_transpose_scale_and_amax(kind: Any, tokens: tuple[int, int], width: int) -> None:
    from benchmarks.gpu import swiglu_fp8

    torch.manual_seed(width)
    joint = torch.randn(*tokens, 2 * width, device=DEVICE).bfloat16()
    above = torch.randn(*tokens, width, device=DEVICE).bfloat16()
    value, gradient = exact(joint, above)
    for inputs, right in (((joint,), value), ((joint, above), gradient)):
        quantizer = Quantizer("kFloat8E4M3", 8.0)
        straight, across, inverse = swiglu_fp8.swiglu_in_fp8(quantizer, kind, *inputs)
        assert straight.shape == right.shape
        assert further_apart(straight, cast(right, 8.0, kind)) <= FURTHER
        assert torch.equal(across, straight.view(-1, straight.shape[-1]).t())
        assert float(inverse) == 1 / 8
        assert float(quantizer.amax) == pytest.approx(float(right.abs().max()), rel=2**-7)


def test_amax_is_raised_and_never_lowered() -> None:
    from benchmarks.gpu import swiglu_fp8

    quantizer = Quantizer("kFloat8E4M3", 1.0)
    quantizer.amax.fill_(1e6)
    swiglu_fp8.swiglu_in_fp8(quantizer, KINDS[0], torch.ones(4, 16, device=DEVICE).bfloat16())
    assert float(quantizer.amax) == 1e6


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_becomes_the_largest(kind: Any) -> None:
    from benchmarks.gpu import swiglu_fp8

    joint = torch.full((4, 32), 1e4, device=DEVICE).bfloat16()
    joint[:, 16] = -1e4
    joint[:, 17:] *= -1
    straight, _, _ = swiglu_fp8.swiglu_in_fp8(Quantizer("kFloat8E4M3", 8.0), kind, joint)
    assert straight.view(kind).float().abs().max() == torch.finfo(kind).max


@pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter casts NaN to a number")
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays(kind: Any) -> None:
    from benchmarks.gpu import swiglu_fp8

    joint = torch.ones(4, 32, device=DEVICE).bfloat16()
    joint[1, 3] = float("nan")
    for inputs in ((joint,), (joint, torch.ones(4, 16, device=DEVICE).bfloat16())):
        straight, _, _ = swiglu_fp8.swiglu_in_fp8(Quantizer("kFloat8E4M3", 8.0), kind, *inputs)
        assert straight.view(kind).float()[1].isnan().any()
        assert not straight.view(kind).float()[2].isnan().any()


class Product(torch.autograd.Function):
    """As Transformer Engine's layers: the input is cast for the product, and the gradient from above for those of the way back."""

    @staticmethod
    def forward(ctx: Any, value: Any, weight: Any, of_input: Any, of_gradient: Any) -> Any:
        kept = of_input(value)
        ctx.save_for_backward(kept, weight)
        ctx.of_gradient = of_gradient
        return kept @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        kept, weight = ctx.saved_tensors
        gradient = ctx.of_gradient(gradient.reshape(-1, gradient.shape[-1]).contiguous())
        flat = kept.reshape(-1, kept.shape[-1])
        return (gradient @ weight).view(kept.shape), gradient.t() @ flat, None, None


class Layer(torch.nn.Module):
    fp8 = True

    def __init__(self, columns: int, rows: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(rows, columns, device=DEVICE).bfloat16() / columns**0.5)
        value, slope = Quantizer("kFloat8E4M3", 8.0), Quantizer("kFloat8E5M2", 64.0)
        self.quantizers = {"scaling_fwd": [value], "scaling_bwd": [slope]}

    def forward(self, value: Any) -> Any:
        of_input, of_gradient = self.quantizers["scaling_fwd"][0], self.quantizers["scaling_bwd"][0]
        return Product.apply(value, self.weight, of_input, of_gradient), None


CONFIG = {
    "fp8": "hybrid", "fp8_recipe": "delayed", "bias_activation_fusion": True, "use_te_activation_func": False, "gated_linear_unit": True,
    "add_bias_linear": False, "activation_func_fp8_input_store": False, "recompute_granularity": None, "cpu_offloading": False,
}  # fmt: skip


class Mlp(torch.nn.Module):
    def __init__(self, **config: Any):
        super().__init__()
        self.config = types.SimpleNamespace(**{**CONFIG, **config})
        self.activation_func = torch.nn.functional.silu
        torch.manual_seed(0)
        self.linear_fc1, self.linear_fc2 = Layer(32, 2 * 48), Layer(48, 32)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our `MLP.forward`, with fp8 tensors unpacked to numbers, and how often it left the work to megatron-core's."""
    memory_pool.leave_out()
    from benchmarks.gpu import swiglu_fp8

    def unpacked(quantizer: Any, like: Any, straight: Any, across: Any, inverse: Any) -> Any:
        kind = swiglu_fp8.kind_of(quantizer)
        assert torch.equal(across, straight.view(-1, straight.shape[-1]).t())
        return (straight.view(kind).float() * inverse).bfloat16().view(like.shape)

    monkeypatch.setattr(swiglu_fp8, "wrapped", unpacked)
    # the interpreter's casts cut: the proof against PyTorch's would fail
    monkeypatch.setattr(swiglu_fp8, "distance", lambda kind, device: 0.0)

    def stock(mlp: Any, hidden: Any, per_token_scale: Any = None) -> Any:
        ours.stock += 1
        joint, _ = mlp.linear_fc1(hidden)
        gate, up = joint.chunk(2, -1)
        return mlp.linear_fc2(torch.nn.functional.silu(gate) * up)

    forward = swiglu_fp8.forward(stock)
    ours = types.SimpleNamespace(forward=forward, plain=stock, stock=0)
    return ours


def test_the_layers_cast_what_swiglu_left_with_them(run: Any) -> None:
    hidden = torch.randn(6, 2, 32, device=DEVICE).bfloat16()
    above = torch.randn(6, 2, 32, device=DEVICE).bfloat16()
    found = []
    for forward in (run.plain, run.forward):
        mlp, leaf = Mlp(), hidden.clone().requires_grad_()
        for _ in range(2):  # as two micro batches
            forward(mlp, leaf)[0].backward(above)
        found.append([leaf.grad, mlp.linear_fc1.weight.grad, mlp.linear_fc2.weight.grad])
    for plain, ours in zip(*found, strict=True):
        assert (ours - plain).norm() < 0.2 * plain.norm()  # fp8's two or three bits
    assert run.stock == 2  # the plain ones
    value, slope = mlp.linear_fc2.quantizers["scaling_fwd"][0], mlp.linear_fc1.quantizers["scaling_bwd"][0]
    assert (value.asked, slope.asked) == (0, 0)
    assert float(value.amax) > 0
    assert float(slope.amax) > 0


@pytest.mark.parametrize("usage", ["rowwise_usage", "columnwise_usage"])
def test_where_a_layer_wants_one_of_both_it_casts_a_written_tensor(run: Any, usage: str) -> None:
    mlp, hidden = Mlp(), torch.randn(6, 2, 32, device=DEVICE).bfloat16()
    plain = run.plain(mlp, hidden)[0]
    setattr(mlp.linear_fc2.quantizers["scaling_fwd"][0], usage, False)
    assert torch.allclose(run.forward(mlp, hidden)[0], plain, rtol=0.05, atol=0.05)


def test_a_tensor_that_no_layer_asks_for_ends_the_run(run: Any) -> None:
    mlp = Mlp()
    mlp.linear_fc2.forward = lambda value: (value, None)
    with pytest.raises(RuntimeError, match="would have been read as it was"):
        run.forward(mlp, torch.randn(6, 2, 32, device=DEVICE).bfloat16())


@pytest.mark.parametrize(
    "other",
    [
        {"fp8": None}, {"fp8_recipe": "tensorwise"}, {"recompute_granularity": "full"}, {"cpu_offloading": True}, {"add_bias_linear": True},
        {"bias_activation_fusion": False}, {"use_te_activation_func": True}, {"activation_func_fp8_input_store": True},
    ],
)  # fmt: skip
def test_anything_else_is_megatrons(run: Any, other: dict[str, Any]) -> None:
    hidden = torch.randn(6, 2, 32, device=DEVICE).bfloat16()
    run.forward(Mlp(**other), hidden)
    assert run.stock == 1


def test_validation_experts_and_layers_before_their_first_step_are_megatrons(run: Any) -> None:
    hidden = torch.randn(6, 2, 32, device=DEVICE).bfloat16()
    with torch.no_grad():
        run.forward(Mlp(), hidden)
    run.forward(Mlp(), hidden, torch.ones(6, 2, device=DEVICE))
    fresh = Mlp()
    fresh.linear_fc1.fp8 = False
    run.forward(fresh, hidden)
    assert run.stock == 3
