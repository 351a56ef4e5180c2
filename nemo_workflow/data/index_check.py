"""Does an .idx fit together? Read whole, or in samples where it is large."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_workflow.data.indexed_dataset import HEADER, Pair
from nemo_workflow.utils.errors import Refusal

if TYPE_CHECKING:
    import numpy as np

BLOCK = 1 << 22  # numbers read at a time
SAMPLES = 8  # blocks that are read of a large index before a start


class Index:
    """The arrays of an .idx, as maps of the file: `lengths` int32, `pointers` int64 (bytes), `boundaries` int64."""

    def __init__(self, pair: Pair):
        import numpy as np

        path, start = Path(f"{pair.prefix}.idx"), HEADER.size

        def array(dtype: str, count: int, offset: int) -> np.ndarray[Any, Any]:
            # an empty file region can't be mapped
            return np.memmap(path, dtype, "r", offset, (count,)) if count else np.empty(0, dtype)

        self.lengths = array("<i4", pair.sequences, start)
        self.pointers = array("<i8", pair.sequences, start + 4 * pair.sequences)
        self.boundaries = array("<i8", pair.documents + 1, start + 12 * pair.sequences)


def check_index(pair: Pair, index: Index, most_blocks: int | None = None) -> int:
    """Documents without tokens; raises Refusal where lengths, pointers and boundaries contradict each other.

    With `most_blocks`, only so many blocks of each array are read, evenly spread.
    """
    import numpy as np

    idx = f"{pair.prefix}.idx"
    width = np.dtype(pair.dtype).itemsize
    for place in _some(blocks_of(pair.sequences), most_blocks):
        lengths = index.lengths[place].astype(np.int64)
        if (lengths <= 0).any():
            number = place.start + int(np.argmax(lengths <= 0))
            raise Refusal(f"{idx}: sequence {number} has no tokens; preprocess again")
        begin = 0
        if place.start:
            begin = int(index.pointers[place.start - 1]) + int(index.lengths[place.start - 1]) * width
        ends = begin + np.cumsum(lengths) * width
        wrong = index.pointers[place] != ends - lengths * width
        if wrong.any():
            number = place.start + int(np.argmax(wrong))
            raise Refusal(f"{idx}: the pointer of sequence {number} is wrong; preprocess again")
    return _check_boundaries(pair, index, most_blocks)


def _check_boundaries(pair: Pair, index: Index, most_blocks: int | None) -> int:
    """Number of documents without tokens."""
    import numpy as np

    idx, bounds = f"{pair.prefix}.idx", index.boundaries
    if len(bounds) == 0 or bounds[0] != 0 or bounds[-1] != pair.sequences:
        raise Refusal(f"{idx}: its documents do not cover its sequences; preprocess again")
    empty = 0
    for place in _some(blocks_of(pair.documents), most_blocks):
        steps = np.diff(bounds[place.start : place.stop + 1])
        if (steps < 0).any():
            number = place.start + int(np.argmax(steps < 0))
            raise Refusal(f"{idx}: document {number} ends before it begins; preprocess again")
        empty += int((steps == 0).sum())
    return empty


def blocks_of(count: int) -> Iterator[slice]:
    """0 to `count` in slices of at most BLOCK."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _some(blocks: Iterator[slice], most: int | None) -> list[slice]:
    """All of the blocks, or `most` of them: the first, the last and some between."""
    every = list(blocks)
    if most is None or len(every) <= most:
        return every
    return [every[number * (len(every) - 1) // (most - 1)] for number in range(most)]
