"""What the losses of both output layers begin with: a row of logits read once, block by block."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK, WARPS = 16384, 32  # one program a multiprocessor, so that the rows at work fit the L2 cache together


@triton.jit
def largest_and_sum(logits, columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest logit of a row, and the sum of exp(logit - largest)."""
    offsets = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        inside = start + offsets < columns
        value = tl.load(logits + start + offsets, mask=inside, other=-1e30).to(tl.float32)
        new = tl.maximum(largest, value)
        total = total * tl.exp(largest - new) + tl.exp(value - new)
        largest = new
    top = tl.max(largest, 0)
    return top, tl.sum(total * tl.exp(largest - top), 0)
