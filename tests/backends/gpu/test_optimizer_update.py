"""The update in pieces: the same numbers as at once, on torch's own Adam (FusedAdam needs a GPU)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.later import later

torch, optimizer_update = later("torch"), later("nemo_workflow.backends.gpu.optimizer_update")

SIZES = (3, 5, 40, 2, 2, 9)


def test_no_piece_is_larger_than_the_limit_but_of_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_workflow.backends.UPDATE_PIECE", 8)
    found = [[t.numel() for t in part] for part in optimizer_update.pieces([torch.zeros(size) for size in SIZES])]
    assert found == [[3, 5], [40], [2, 2], [9]]
    assert list(optimizer_update.pieces([])) == []


class Counting:
    """The part of FusedAdam that matters here: each group counts its steps, and its parameters share the count."""

    def __init__(self, parameters: list[Any]):
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": 0.5}, {"params": [], "lr": 1.0}]
        self.calls = 0

    def step(self, closure: Any = None, grad_scaler: Any = None) -> None:
        self.calls += 1
        for group in self.param_groups:
            if group["params"]:
                group["step"] = group.get("step", 0) + 1
                for parameter in group["params"]:
                    parameter.sub_(group["lr"] * group["step"])


def test_pieces_step_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_workflow.backends.UPDATE_PIECE", 8)
    whole, parts = (Counting([torch.zeros(size) for size in SIZES]) for _ in range(2))
    groups = parts.param_groups
    for _ in range(3):
        whole.step()
        optimizer_update.in_pieces(Counting.step)(parts)
    assert (whole.calls, parts.calls) == (3, 12)
    assert parts.param_groups is groups and groups[0]["step"] == 3 and "step" not in groups[1]
    for one, other in zip(whole.param_groups[0]["params"], groups[0]["params"], strict=True):
        assert torch.equal(one, other)


def test_the_groups_are_back_after_an_error() -> None:
    optimizer = Counting([torch.zeros(3)])
    groups = optimizer.param_groups

    def fail(optimizer: Any, closure: Any = None, grad_scaler: Any = None) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer_update.in_pieces(fail)(optimizer)
    assert optimizer.param_groups is groups


@pytest.mark.slow
def test_torchs_adam_makes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_workflow.backends.UPDATE_PIECE", 8)
    generator = torch.Generator().manual_seed(1)
    begun = [torch.randn(size, generator=generator) for size in SIZES]
    whole, parts = ([tensor.clone().requires_grad_() for tensor in begun] for _ in range(2))
    first, second = torch.optim.AdamW(whole, lr=0.1), torch.optim.AdamW(parts, lr=0.1)
    for _ in range(3):
        for one, other in zip(whole, parts, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        first.step()
        optimizer_update.in_pieces(lambda optimizer, grad_scaler=None: torch.optim.AdamW.step(optimizer))(second)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
