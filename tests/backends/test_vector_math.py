"""Each of oneMKL's vector functions is called first by one thread, before a model computes."""

from __future__ import annotations

import pytest

from nemo_workflow.backends import vector_math


def test_every_function_is_called_on_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number is never dealt out to threads. The race itself shows too rarely for a test."""
    import torch

    called: list[tuple[str, int, torch.dtype]] = []
    for name in vector_math.FUNCTIONS:
        original = getattr(torch, name)

        def record(x: torch.Tensor, name: str = name, original: object = original) -> torch.Tensor:
            called.append((name, x.numel(), x.dtype))
            return original(x)

        monkeypatch.setattr(torch, name, record)
    vector_math.settle()
    assert {"sin", "cos", "exp", "sqrt", "tanh", "erf"} <= set(vector_math.FUNCTIONS)  # what models compute with
    assert called == [(name, 1, dtype) for dtype in (torch.float32, torch.float64) for name in vector_math.FUNCTIONS]
