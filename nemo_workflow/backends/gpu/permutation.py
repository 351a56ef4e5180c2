"""Transformer Engine's kernels that sort tokens by their experts, compiled by a newer Triton than they were written for."""

from __future__ import annotations

from typing import Any

from nemo_workflow.backends.registry import find

NAME = "the sorting of tokens by experts"


def install() -> None:
    """Imports Triton."""
    from nemo_workflow.backends.gpu import aside

    aside.replace(NAME, find("backends.gpu.permutation:for_kernels"))


def for_kernels(original: Any) -> Any:
    """A function that kernels may call while they are compiled; others call it as ever."""
    import triton

    return triton.constexpr_function(original)
