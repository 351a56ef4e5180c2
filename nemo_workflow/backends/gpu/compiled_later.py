"""torch's compiler is loaded when a compiled function is first called, and not when megatron-core is imported.

Its import starts CUDA and some 60 threads, which a process that forks ranks must not have. What is compiled is the same, and
compiled by the same compiler: Transformer Engine does the same with its own functions (`lazy_compile` in its jit.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from nemo_workflow.backends import patching
from nemo_workflow.backends.deferral import Package, defer
from nemo_workflow.backends.registry import find


def install() -> None:
    """For a process that imports NeMo and forks; before megatron-core is imported. NeMo's export loads a runtime that starts a thread."""
    defer([Package("onnxruntime")])
    patching.replace(find("backends.gpu.compiled_later:at_first_call"))


def at_first_call(stock: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile, which compiles a plain function at its first call."""

    @functools.wraps(stock)
    def compile_(model: Any = None, **options: Any) -> Any:
        if model is None:
            return functools.partial(compile_, **options)
        if not isinstance(model, FunctionType):
            return stock(model, **options)
        made: Callable[..., Any] | None = None

        @functools.wraps(model)
        def first(*arguments: Any, **keywords: Any) -> Any:
            nonlocal made
            if made is None:
                made = stock(model, **options)
            return made(*arguments, **keywords)

        # inside another compiled function the compiler takes the function itself, as it does with its own
        first._torchdynamo_inline = model  # type: ignore[attr-defined]
        return first

    return compile_
