"""Attention by FlashAttention 4: our autograd around its two functions, and when it stands aside.

Its kernels need a Hopper GPU: where there is none, plain PyTorch stands in for them, with the same arguments and layouts.
Seen on a card: benchmarks/gpu/check_kernels.py, docs/performance.md.
"""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest

from tests.later import later

torch = later("torch")
aside, attention = later("nemo_workflow.backends.gpu.aside"), later("nemo_workflow.backends.gpu.attention")

SCALE = 0.2


def plain(q: Any, k: Any, v: Any, scale: float) -> Any:
    """Causal attention of (b, s, heads, width)."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)


def forward(q: Any, k: Any, v: Any, *, softmax_scale: float, causal: bool, return_lse: bool, out: Any) -> Any:
    assert causal
    assert return_lse
    out.copy_(plain(q, k, v, softmax_scale))
    return out, torch.zeros(q.shape[0], q.shape[2], q.shape[1]), None, None, None


def backward(
    q: Any, k: Any, v: Any, out: Any, above: Any, lse: Any, scale: float, causal: bool, *, dq: Any, dk: Any, dv: Any
) -> Any:
    assert causal
    assert out.shape == above.shape == q.shape
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
        plain(*leaves, scale).backward(above)
    for place, leaf in zip((dq, dk, dv), leaves, strict=True):
        place.copy_(leaf.grad)
    return dq, dk, dv


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"interface": SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)}
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", types.ModuleType("flash_attn.cute"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", package["interface"])


def tensors(heads: int = 4, groups: int = 2, kind: Any = None) -> list[Any]:
    """Query, key and value as megatron-core has them: (s, b, heads, width)."""
    torch.manual_seed(0)
    shapes = [(6, 3, number, 64) for number in (heads, groups, groups)]
    return [torch.randn(shape, dtype=kind or torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.slow
def test_output_and_gradients_are_attentions(stand_in: None) -> None:
    ours, exact = tensors(), tensors()
    out = attention.Attention.apply(*ours, SCALE)
    expected = plain(*(tensor.transpose(0, 1) for tensor in exact), SCALE).transpose(0, 1)
    assert out.is_contiguous()  # in megatron-core's order: no copy is held beside it
    assert torch.allclose(out, expected)
    above = torch.randn_like(out)
    out.backward(above)
    expected.backward(above)
    for mine, right in zip(ours, exact, strict=True):
        assert torch.allclose(mine.grad, right.grad)


def module(**change: Any) -> Any:
    """What a TEDotProductAttention holds."""
    settings = {"context_parallel_size": 1, "cpu_offloading": False}
    settings |= {"fp8_dot_product_attention": False, "fp8_multi_head_attention": False}
    config = SimpleNamespace(**{name: change.pop(name, value) for name, value in settings.items()})
    values = {"attention_type": "self", "softmax_type": "vanilla", "window_size": (-1, 0), "attention_dropout": 0.0}
    values |= {"deterministic": False, "config": config, "flash_attention": SimpleNamespace(softmax_scale=SCALE)}
    return SimpleNamespace(**values | change)


CAUSAL = SimpleNamespace(name="causal")
ASIDE = [
    {"attention_type": "cross"},
    {"softmax_type": "learnable"},
    {"window_size": (128, 0)},
    {"attention_dropout": 0.1},
    {"deterministic": True},
    {"context_parallel_size": 2},
    {"cpu_offloading": True},
    {"fp8_dot_product_attention": True},
]


@pytest.mark.parametrize("change", ASIDE, ids=[next(iter(change)) for change in ASIDE])
def test_it_stands_aside_for_all_but_plain_causal_attention(change: dict[str, Any]) -> None:
    assert attention.suits(module(), CAUSAL)
    assert not attention.suits(module(**change), CAUSAL)
    assert not attention.suits(module(), SimpleNamespace(name="padding_causal"))


def test_it_stands_aside_for_tensors_it_was_not_measured_with() -> None:
    assert attention.fits(*tensors(kind=torch.bfloat16))
    assert not attention.fits(*tensors(kind=torch.float32))
    wide = [torch.zeros(6, 3, 2, 256, dtype=torch.bfloat16) for _ in range(3)]
    assert not attention.fits(*wide)
    query, key, value = tensors(heads=4, groups=3, kind=torch.bfloat16)
    assert not attention.fits(query, key, value)
    query, key, value = tensors(kind=torch.bfloat16)
    assert not attention.fits(query[:1], key, value)  # generating: one position at a time


@pytest.fixture
def attention_class(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Transformer Engine's attention as megatron-core calls it; the class itself can't be had without a GPU."""

    class TEDotProductAttention:
        def forward(self, query: Any, key: Any, value: Any, attention_mask: Any, attn_mask_type: Any,
                    attention_bias: Any = None, packed_seq_params: Any = None) -> str:  # fmt: skip
            return "Transformer Engine's"

    name = "megatron.core.extensions.transformer_engine"
    for parent in ("megatron", "megatron.core", "megatron.core.extensions"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(TEDotProductAttention=TEDotProductAttention))
    monkeypatch.setattr(attention, "available", lambda: True)
    attention.install()
    return TEDotProductAttention


@pytest.mark.slow
def test_megatrons_call_takes_this_way_where_it_fits(attention_class: Any) -> None:
    query, key, value = tensors(kind=torch.bfloat16)
    call = {"attn_mask_type": CAUSAL, "attention_bias": None, "packed_seq_params": None}
    out = attention_class.forward(module(), query, key, value, None, **call)
    assert out.shape == (6, 3, 4 * 64)
    for name, other in (("attention_bias", query), ("packed_seq_params", object())):
        assert (
            attention_class.forward(module(), query, key, value, None, **call | {name: other}) == "Transformer Engine's"
        )
    assert (
        attention_class.forward(module(deterministic=True), query, key, value, None, **call) == "Transformer Engine's"
    )


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_said", set())


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_kernels_that_fail_or_are_wrong_are_left_out(
    fault: str, attention_class: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def spoiled(*tensors: Any, **named: Any) -> Any:
        if fault == "raises":
            raise RuntimeError("no kernel image for this device")
        result = backward(*tensors, **named)
        named["dk"].mul_(1.1)
        return result

    monkeypatch.setattr(sys.modules["flash_attn.cute.interface"], "_flash_attn_bwd", spoiled)
    for _ in range(2):
        found = attention_class.forward(module(), *tensors(kind=torch.bfloat16), None, CAUSAL)
        assert found == "Transformer Engine's"
    assert [record.message.startswith("flash-attn-4") for record in caplog.records] == [True]


def test_the_proof_takes_none_of_trainings_random_numbers(stand_in: None) -> None:
    before = torch.get_rng_state()
    assert attention.distance(4, 2, 64, torch.device("cpu")) < aside.FAR
    assert torch.equal(torch.get_rng_state(), before)


def test_without_the_package_or_a_hopper_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert not attention.available()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert not attention.available()
