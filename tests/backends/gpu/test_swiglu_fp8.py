"""SwiGLU and its gradient cast to fp8 in their own kernels, against PyTorch's casts; see tests/backends/gpu/test_output_layer.py for the interpreter."""

from __future__ import annotations

import types
from typing import Any

import pytest

from nemo_workflow.backends import memory_pool
from nemo_workflow.backends.gpu import aside
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
    from nemo_workflow.backends.gpu import swiglu_fp8

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
    from nemo_workflow.backends.gpu import swiglu_fp8

    quantizer = Quantizer("kFloat8E4M3", 1.0)
    quantizer.amax.fill_(1e6)
    swiglu_fp8.swiglu_in_fp8(quantizer, KINDS[0], torch.ones(4, 16, device=DEVICE).bfloat16())
    assert float(quantizer.amax) == 1e6


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_becomes_the_largest(kind: Any) -> None:
    from nemo_workflow.backends.gpu import swiglu_fp8

    joint = torch.full((4, 32), 1e4, device=DEVICE).bfloat16()
    joint[:, 16] = -1e4
    joint[:, 17:] *= -1
    straight, _, _ = swiglu_fp8.swiglu_in_fp8(Quantizer("kFloat8E4M3", 8.0), kind, joint)
    assert straight.view(kind).float().abs().max() == torch.finfo(kind).max


@pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter casts NaN to a number")
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays(kind: Any) -> None:
    from nemo_workflow.backends.gpu import swiglu_fp8

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
    from nemo_workflow.backends.gpu import swiglu_fp8

    def unpacked(quantizer: Any, like: Any, straight: Any, across: Any, inverse: Any) -> Any:
        kind = swiglu_fp8.kind_of(quantizer)
        assert torch.equal(across, straight.view(-1, straight.shape[-1]).t())
        return (straight.view(kind).float() * inverse).bfloat16().view(like.shape)

    monkeypatch.setattr(swiglu_fp8, "wrapped", unpacked)
    monkeypatch.setattr(swiglu_fp8, "parts", lambda made: (made,))
    # the interpreter's casts cut: a trial would fail
    monkeypatch.setattr(swiglu_fp8, "difference", lambda ours, amax, stock, stock_amax: "")
    monkeypatch.setattr(aside, "_said", set())
    told: list[str] = []
    monkeypatch.setattr(aside, "_say", told.append)

    def stock(mlp: Any, hidden: Any, per_token_scale: Any = None) -> Any:
        ours.stock += 1
        joint, _ = mlp.linear_fc1(hidden)
        gate, up = joint.chunk(2, -1)
        return mlp.linear_fc2(torch.nn.functional.silu(gate) * up)

    forward = swiglu_fp8.mlp_forward(stock)
    ours = types.SimpleNamespace(forward=forward, plain=stock, stock=0, told=told)
    return ours


HIDDEN, ABOVE = (torch.randn(6, 2, 32, device=DEVICE).bfloat16() for _ in range(2))


def gradients(forward: Any, mlp: Any, times: int = 3) -> list[Any]:
    """Of the input and of both weights after so many micro batches: our first of a shape is a trial."""
    leaf = HIDDEN.clone().requires_grad_()
    for _ in range(times):
        forward(mlp, leaf)[0].backward(ABOVE)
    return [leaf.grad, mlp.linear_fc1.weight.grad, mlp.linear_fc2.weight.grad]


def close(ours: list[Any], plain: list[Any], part: float = 0.2) -> bool:
    """Within fp8's two or three bits."""
    return all((mine - right).norm() < part * right.norm() for mine, right in zip(ours, plain, strict=True))


def asked(mlp: Any) -> tuple[int, int]:
    """How often the layers' quantizers cast by themselves: the second one's input, the gradient of the first one's output."""
    value, slope = mlp.linear_fc2.quantizers["scaling_fwd"][0], mlp.linear_fc1.quantizers["scaling_bwd"][0]
    return value.asked, slope.asked


def test_the_layers_cast_what_swiglu_left_with_them(run: Any) -> None:
    mlp = Mlp()
    assert close(gradients(run.forward, mlp), gradients(run.plain, Mlp()))
    assert run.stock == 3  # the plain ones
    assert asked(mlp) == (1, 1)  # in the trial
    assert run.told == []


def test_amax_is_the_largest_of_all_micro_batches(run: Any) -> None:
    mlp = Mlp()
    value = mlp.linear_fc2.quantizers["scaling_fwd"][0]
    value.amax.fill_(1e6)
    for _ in range(2):
        run.forward(mlp, HIDDEN)
        assert float(value.amax) == 1e6
    value.amax.zero_()
    run.forward(mlp, HIDDEN)
    first = float(value.amax)
    run.forward(mlp, 2 * HIDDEN)
    assert float(value.amax) > first > 0


def test_each_shape_has_a_trial_of_its_own(run: Any) -> None:
    mlp = Mlp()
    for tokens in (6, 6, 4, 4):
        run.forward(mlp, HIDDEN[:tokens])
    assert asked(mlp)[0] == 2


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_a_trial_that_fails_leaves_the_layers_as_they_are(
    run: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from nemo_workflow.backends.gpu import swiglu_fp8

    def difference(*made: Any) -> str:
        if fault == "raises":
            raise RuntimeError("no kernel image is available for execution on the device")
        return "0.5 % of the bytes are not Transformer Engine's"

    monkeypatch.setattr(swiglu_fp8, "difference", difference)
    mlp = Mlp()
    assert close(gradients(run.forward, mlp), gradients(run.plain, Mlp()), part=0.02)
    assert asked(mlp) == (3, 3)
    assert len(run.told) == 1
    assert ("kernel image" if fault == "raises" else "0.5 %") in run.told[0]


@pytest.mark.parametrize("usage", ["rowwise_usage", "columnwise_usage"])
def test_where_a_layer_wants_one_of_both_it_casts_a_written_tensor(run: Any, usage: str) -> None:
    mlp = Mlp()
    plain = run.plain(mlp, HIDDEN)[0]
    for at in range(3):
        setattr(mlp.linear_fc2.quantizers["scaling_fwd"][0], usage, at == 1)
        assert torch.allclose(run.forward(mlp, HIDDEN)[0], plain, rtol=0.05, atol=0.05)


def test_a_layer_that_never_asks_for_the_tensor_reads_a_written_one(run: Any) -> None:
    mlp = Mlp()
    plain = torch.nn.functional.linear
    mlp.linear_fc2.forward = lambda value: (plain(value, mlp.linear_fc2.weight), None)
    wanted = run.plain(mlp, HIDDEN)[0]
    for _ in range(3):
        assert torch.allclose(run.forward(mlp, HIDDEN)[0], wanted, rtol=0.05, atol=0.05)
    assert len(run.told) == 1
    assert "reads the tensor itself" in run.told[0]


def test_an_unwritten_tensor_that_no_layer_asks_for_ends_the_run(run: Any) -> None:
    mlp = Mlp()
    run.forward(mlp, HIDDEN)
    mlp.linear_fc2.forward = lambda value: (value, None)
    with pytest.raises(RuntimeError, match="would have been read as it was"):
        run.forward(mlp, HIDDEN)


@pytest.mark.parametrize(
    "other",
    [
        {"fp8": None}, {"fp8_recipe": "tensorwise"}, {"recompute_granularity": "full"}, {"cpu_offloading": True}, {"add_bias_linear": True},
        {"bias_activation_fusion": False}, {"use_te_activation_func": True}, {"activation_func_fp8_input_store": True},
        {"cuda_graph_impl": "local"}, {"enable_cuda_graph": True},
    ],
)  # fmt: skip
def test_anything_else_is_megatrons(run: Any, other: dict[str, Any]) -> None:
    run.forward(Mlp(**other), HIDDEN)
    assert run.stock == 1


def test_validation_experts_and_layers_before_their_first_step_are_megatrons(run: Any) -> None:
    with torch.no_grad():
        run.forward(Mlp(), HIDDEN)
    run.forward(Mlp(), HIDDEN, torch.ones(6, 2, device=DEVICE))
    fresh = Mlp()
    fresh.linear_fc1.fp8 = False
    run.forward(fresh, HIDDEN)
    assert run.stock == 3


def test_a_gradient_in_bf16_is_the_one_that_megatron_uses(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core.fusions.fused_bias_swiglu import SwiGLUFunction

    from nemo_workflow.backends.gpu import swiglu_fp8

    def backward(ctx: Any, gradient: Any) -> Any:
        return torch.ones_like(ctx.saved_tensors[0]), None, None

    monkeypatch.setattr(SwiGLUFunction, "backward", staticmethod(backward))  # as backends/gpu/activation.py does
    joint = torch.randn(3, 2, 32, device=DEVICE).bfloat16()
    with torch.no_grad():  # as in a backward pass
        found = swiglu_fp8.in_bf16(joint, torch.randn(3, 2, 16, device=DEVICE).bfloat16())
    assert torch.equal(found, torch.ones_like(joint))


def test_a_difference_is_named() -> None:
    from nemo_workflow.backends.gpu.swiglu_fp8 import difference

    one, amax = torch.tensor(0.125), torch.tensor(3.0)
    data = torch.arange(4000, dtype=torch.int32).to(torch.uint8)
    other, few = data.clone(), data.clone()
    other[:40] += 1
    few[:2] += 1
    assert difference((data, data, one), amax, (data, few, one), amax) == ""
    assert "1.00% of the bytes are" in difference((data, data, one), amax, (other, data, one), amax)
    assert "1.00% of the bytes of the transpose" in difference((data, data, one), amax, (data, other, one), amax)
    assert "3000 bytes, not 4000" in difference((data[:3000], data, one), amax, (data, data, one), amax)
    assert "its scale is 0.25, not 0.125" in difference((data, data, 2 * one), amax, (data, data, one), amax)
    assert "its largest value is 6, not 3" in difference((data, data, one), 2 * amax, (data, data, one), amax)
    nan = torch.tensor(float("nan"))
    assert difference((data, data, one), nan, (data, data, one), nan) == ""
