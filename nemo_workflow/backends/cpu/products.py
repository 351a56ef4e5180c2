"""torch 2.13.0: matrix products of bf16 and fp16 on a CPU that has no instructions for them.

Without AVX512-BF16 or AMX (x86-64; BF16 on arm64) torch falls back on plain loops: 1 to 16 GFLOP/s a core, where fp32 has 60.
The products of such a type are then computed in fp32 and rounded once, as the instructions do it too.

torch has no word that can be trusted: `torch.ops.mkldnn._is_mkldnn_bf16_supported()` says yes on a CPU with AVX512 alone,
where bf16 is five times slower than fp32. So the products are measured, which takes some milliseconds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SLOW = 2.5  # times fp32's time: 0.6 with AMX, 1.7 with AVX512-BF16, 3.5 with AVX512 alone, 10 with AVX2; so no start wavers
SIZE = 128  # rows and columns of the measured matrices: the loops take 2 ms for them
REPEATS = 7
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addbmm")  # matmul, linear, einsum and math attention end in these
IN_PLACE = ("addmm", "baddbmm", "addbmm")
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu_backward"  # its forward pass is fast without the instructions

_library: Any = None  # holds the replacements: with the object they would go too
_replaced: set[torch.dtype] = set()


def slow_types(types: Iterable[str] = tuple(TYPES)) -> dict[str, float]:
    """Names of those types whose products are slow here -> how many times as long they take as through fp32."""
    ratios = {name: _times_fp32(TYPES[name]) for name in types if TYPES[name] not in _replaced}
    return {name: round(ratio, 1) for name, ratio in ratios.items() if ratio > SLOW}


def compute_in_fp32(types: Iterable[str]) -> None:
    """From now on compute products of these types in fp32, in this process, on the CPU."""
    global _library
    _replaced.update(TYPES[name] for name in types)
    if not _replaced or _library is not None:
        return
    _library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that a kernel is replaced: that is what we want
        for name in PRODUCTS:
            original = _kernel(name)
            _replace(name, _product(original))
            _replace(f"{name}.out", _into_out(_kernel(f"{name}.out"), original))
            if name in IN_PLACE:
                _replace(f"{name}_", _in_place(_kernel(f"{name}_"), original))
        _replace(ATTENTION, _attention(_kernel(ATTENTION)))


def words(slow: dict[str, float]) -> str:
    """What `slow_types` found, as a sentence for a person."""
    times = " and ".join(f"{name} ({ratio:g} times fp32's time)" for name, ratio in slow.items())
    return f"this CPU has no fast products of {times}: they are computed in fp32 and rounded"


def use_fastest() -> dict[str, float]:
    """Measure and choose, for a process that works alone; returns what was slow, as `slow_types` does."""
    slow = slow_types()
    compute_in_fp32(slow)
    return slow


def _times_fp32(dtype: torch.dtype) -> float:
    """Time of the three products of a linear layer (forward, data and weight gradient) against the same through fp32."""
    a, b = torch.ones(SIZE, SIZE, dtype=dtype), torch.ones(SIZE, SIZE, dtype=dtype)
    forms = ((a, b.t()), (a, b), (a.t(), b))

    def native() -> None:
        for left, right in forms:
            torch.mm(left, right)

    def through_fp32() -> None:
        for left, right in forms:
            torch.mm(left.float(), right.float()).to(dtype)

    times: dict[Callable[[], None], list[float]] = {native: [], through_fp32: []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # and its CPU time: where others have the cores, a clock saw 9.6 for a CPU with AMX
    try:
        for _ in range(1 + REPEATS):  # the first warms up
            for work, seconds in times.items():
                began = time.thread_time()
                work()
                seconds.append(time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return min(times[native][1:]) / min(times[through_fp32][1:])


def _kernel(name: str) -> Any:
    """The function that now answers for an operator on the CPU."""
    return torch.library.get_kernel(f"aten::{name}", "CPU")


def _replace(name: str, function: Callable[..., Any]) -> None:
    _library.impl(name, function, "CPU", with_keyset=True)


def _is_slow(tensors: Iterable[Any]) -> bool:
    """Whether all are of one slow type; a mixture is left to the original, which has its own word on it."""
    types = {value.dtype for value in tensors if isinstance(value, torch.Tensor)}
    return len(types) == 1 and types <= _replaced


def _in_fp32(values: Iterable[Any]) -> list[Any]:
    return [v.float() if isinstance(v, torch.Tensor) and v.dtype in _replaced else v for v in values]


def _product(kernel: Any) -> Callable[..., torch.Tensor]:
    def product(keys: Any, *operands: Any, **scales: Any) -> torch.Tensor:
        if not _is_slow(operands):
            return kernel.call_boxed(keys, *operands, **scales)
        return kernel.call_boxed(keys, *_in_fp32(operands), **scales).to(operands[0].dtype)

    return product


def _into_out(original: Any, kernel: Any) -> Callable[..., torch.Tensor]:
    def product(keys: Any, *operands: Any, out: torch.Tensor, **scales: Any) -> torch.Tensor:
        if not _is_slow((*operands, out)):
            return original.call_boxed(keys, *operands, out=out, **scales)
        result = kernel.call_boxed(keys, *_in_fp32(operands), **scales)
        return out.resize_(result.shape).copy_(result)

    return product


def _in_place(original: Any, kernel: Any) -> Callable[..., torch.Tensor]:
    def product(keys: Any, *operands: Any, **scales: Any) -> torch.Tensor:
        if not _is_slow(operands):
            return original.call_boxed(keys, *operands, **scales)
        return operands[0].copy_(kernel.call_boxed(keys, *_in_fp32(operands), **scales))

    return product


def _attention(kernel: Any) -> Callable[..., tuple[torch.Tensor, ...]]:
    def gradients(keys: Any, *values: Any, **settings: Any) -> tuple[torch.Tensor, ...]:
        names = list(settings)
        wide = dict(zip(names, _in_fp32(settings.values()), strict=True))
        results = kernel.call_boxed(keys, *_in_fp32(values), **wide)
        return tuple(result.to(values[0].dtype) for result in results)

    return gradients
