"""The output layer in fp8 against float64: on a GPU, or where there is none with Triton's interpreter (pip install triton).

Without a GPU the products are PyTorch's, and where all is put together its rounding to fp8 too: Triton's interpreter loses the
carry there, and makes 0.5 of 0.99.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.backends.gpu.interpreted import DEVICE

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
# of e5m2, which has two bits of a fraction
FP8_ROUNDING = 2**-3 if DEVICE == "cuda" else 0.51


def plain_product(left: Any, right: Any, factors: Any, kind: Any, fast: bool) -> Any:
    return ((left.float() @ right.float().t()) * factors[0] * factors[1]).to(kind)


def plain_quantize(tensor: Any) -> Any:
    largest = tensor.abs().max().float().clamp(min=1e-12)
    straight = (tensor.float() * (448 / largest)).to(torch.float8_e4m3fn)
    return straight, straight.t().contiguous(), largest / 448


def plain_loss_and_gradient(logits: Any, labels: Any) -> Any:
    with torch.enable_grad():
        exact = logits.float().requires_grad_()
        losses = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
        gradient = torch.autograd.grad(losses.sum(), exact)[0]
    return losses.detach(), (gradient * 2**15).to(torch.float8_e5m2)


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Any:
    from nemo_workflow.backends.gpu import output_layer_fp8

    monkeypatch.setattr(output_layer_fp8, "BLOCK", 256)
    monkeypatch.setattr(output_layer_fp8, "CHUNK", 32)
    if DEVICE == "cpu":
        monkeypatch.setattr(output_layer_fp8, "product", plain_product)
    return output_layer_fp8


@pytest.fixture
def whole(layer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    if DEVICE == "cpu":
        monkeypatch.setattr(layer, "quantize", plain_quantize)
        monkeypatch.setattr(layer, "loss_and_gradient", plain_loss_and_gradient)
    return layer


@pytest.mark.parametrize("vocabulary", [256, 512, 1024, 1040])
def test_the_gradient_lies_over_the_logits(vocabulary: int, layer: Any) -> None:
    torch.manual_seed(vocabulary)
    logits = (torch.randn(5, vocabulary, device=DEVICE) * 3).bfloat16()
    labels = torch.tensor([0, 255, vocabulary - 1, -100, 17], device=DEVICE)
    exact = logits.double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
    wanted.sum().backward()
    place = logits.data_ptr()
    losses, gradients = layer.loss_and_gradient(logits, labels)
    assert gradients.data_ptr() == place
    assert torch.allclose(losses.double(), wanted, atol=1e-4)
    found = gradients.double() / layer.GRADIENT_SCALE
    assert torch.allclose(found, exact.grad, rtol=FP8_ROUNDING, atol=2**-30)
    assert found[3].abs().max() == 0


@pytest.mark.parametrize("shape", [(16, 16), (80, 48), (64, 128)])
def test_numbers_are_scaled_to_fp8_and_back_both_ways(shape: tuple[int, int], layer: Any) -> None:
    torch.manual_seed(0)
    # numbers that e4m3 has, so that rounding says nothing
    tensor = torch.randint(-7, 8, shape, device=DEVICE).bfloat16()
    tensor[0, 0] = 7
    straight, turned, factor = layer.quantize(tensor)
    assert torch.equal(straight.float().t(), turned.float())
    assert turned.is_contiguous()
    assert torch.equal((straight.float() * factor).bfloat16(), tensor)
    zero = layer.quantize(torch.zeros(16, 16, device=DEVICE).bfloat16())
    assert zero[0].float().abs().max() == 0


def test_rows_that_lie_apart_are_transposed(layer: Any) -> None:
    whole = torch.arange(48 * 160, device=DEVICE).to(torch.uint8).view(48, 160).view(torch.float8_e5m2)
    part = whole[:, :80]
    assert torch.equal(layer.transposed(part).view(torch.uint8), part.view(torch.uint8).t())


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused accumulation"])
@pytest.mark.parametrize("tokens", [32, 80])
def test_losses_and_gradients(fused: bool, tokens: int, whole: Any) -> None:
    torch.manual_seed(1)
    vocabulary, width = 1024, 64
    hidden = torch.randn(tokens, width, device=DEVICE).bfloat16().requires_grad_()
    weight = torch.nn.Parameter((torch.randn(vocabulary, width, device=DEVICE) * 0.1).bfloat16())
    weight.main_grad, weight.zero_out_wgrad = torch.ones(vocabulary, width, device=DEVICE), True
    labels = torch.randint(0, vocabulary, (tokens,), device=DEVICE)
    scale = torch.rand(tokens, device=DEVICE) / tokens
    losses = whole.OutputLoss.apply(hidden, weight, labels, fused)
    (losses * scale).sum().backward()
    found = weight.main_grad - 1 if fused else weight.grad.float()
    assert not fused or weight.grad.abs().max() == 0

    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    wanted = torch.nn.functional.cross_entropy(exact[0] @ exact[1].t(), labels, reduction="none")
    (wanted * scale).sum().backward()
    assert torch.allclose(losses.double(), wanted, atol=0.2)
    for ours, right in ((hidden.grad, exact[0].grad), (found, exact[1].grad)):
        assert (ours.double() - right).norm() / right.norm() < whole.ROUNDING


def test_it_proves_itself(whole: Any) -> None:
    from nemo_workflow.backends.gpu import aside

    assert whole.distance(torch.device(DEVICE)) < aside.FAR


def test_sizes_that_fp8_products_do_not_take_stay_in_bf16(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        is_cuda, device = True, DEVICE

        def __init__(self, *shape: int):
            self.shape = shape

        def is_contiguous(self) -> bool:
            return True

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert layer.fits(Tensor(64, 32), Tensor(1024, 32))
    assert not layer.fits(Tensor(40, 32), Tensor(1024, 32))
    assert not layer.fits(Tensor(64, 32), Tensor(1000, 32))
    for older in ((8, 0), (8, 6), (7, 5)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, older=older: older)
        assert not layer.fits(Tensor(64, 32), Tensor(1024, 32))
