"""Triton's interpreter where there is no GPU: it must be asked for before Triton is imported."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")
ROUNDING = 2**-8 if DEVICE == "cuda" else 2**-7  # of bf16: Triton's interpreter cuts where a GPU rounds to the nearest
