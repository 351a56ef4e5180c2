"""Parts of a tensor: where the pieces of a checkpoint lie in it, and which numbers two of them share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Box:
    """A part of a tensor: where it begins in each dimension, and its sizes."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def within(self, other: Box) -> tuple[slice, ...]:
        """The indices of this part in a tensor that holds the part `other`."""
        begins = [own - at for own, at in zip(self.offsets, other.offsets, strict=True)]
        return tuple(slice(begin, begin + size) for begin, size in zip(begins, self.shape, strict=True))

    def common(self, other: Box) -> Box | None:
        """What both hold."""
        begins = tuple(map(max, self.offsets, other.offsets))
        ends = [
            min(a + b, c + d) for a, b, c, d in zip(self.offsets, self.shape, other.offsets, other.shape, strict=True)
        ]
        shape = tuple(end - begin for begin, end in zip(begins, ends, strict=True))
        return Box(begins, shape) if all(size > 0 for size in shape) else None

    def cut(self, most: int) -> Iterator[Box]:
        """Parts of up to `most` numbers, in the order in which they lie in memory, each without a gap there."""
        at = next((at for at, size in enumerate(self.shape) if size > 1), None)
        if at is None or math.prod(self.shape) <= most:
            yield self
            return
        rows = max(1, most * self.shape[at] // math.prod(self.shape))
        for begin in range(0, self.shape[at], rows):
            offsets, shape = list(self.offsets), list(self.shape)
            offsets[at], shape[at] = offsets[at] + begin, min(rows, shape[at] - begin)
            yield from Box(tuple(offsets), tuple(shape)).cut(most)
