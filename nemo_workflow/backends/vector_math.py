"""The vector functions of oneMKL, each called once by one thread before several threads can be the first.

oneMKL chooses the kernel of a function when it is first called. Where several threads make that call at once, one of them may
compute its part with the coarse kernel, with errors of 1e-4 in place of 1e-7, once a process and without a word
(pytorch/pytorch issue 188792; oneMKL 2024.2, which torch's wheels hold, and not from 2025.0 on). A machine under load makes it
likely. It may be why a conversion beside a load once said that logits differ; it would also give a resumed run other losses.
"""

from __future__ import annotations

# torch's names of what ATen hands to oneMKL (aten/src/ATen/cpu/vml.h)
FUNCTIONS = (
    "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "expm1", "floor", "frac", "log", "log10",
    "log1p", "log2", "round", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip


def settle() -> None:
    """Have every function's kernel chosen, in fp32 and fp64. Takes a millisecond."""
    import torch

    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(one)
