"""Training, validation and test parts of a dataset, worked out as Megatron does, without reading the data.

Megatron cuts the list of sequences (not of tokens) at the rounded fractions of --split, and a part of n tokens holds
(n - 1) // sequence length samples an epoch (megatron-core: BlendedMegatronDatasetBuilder, GPTDataset).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_workflow.data.indexed_dataset import DTYPES, HEADER, Pair

NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)  # Megatron looks for digits and dots: 9e2 would be two numbers to it
PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class Part:
    """One part of a pair: its share of --split, its sequences and tokens."""

    share: float
    sequences: int
    tokens: int

    def samples(self, seq_length: int) -> int:
        """Samples of an epoch: the next token of the last one must exist too."""
        return max(0, (self.tokens - 1) // seq_length)


def parse_split(text: str) -> tuple[float, float, float]:
    """'900,50,50' -> (0.9, 0.05, 0.05); raises ValueError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(map(NUMBER.fullmatch, parts)):
        raise ValueError(text)
    numbers = [float(part) for part in parts]
    if len(numbers) != 3 or min(numbers) < 0 or sum(numbers) <= 0 or numbers[0] == 0:
        raise ValueError(text)
    return tuple(number / sum(numbers) for number in numbers)  # type: ignore[return-value]


def parts_of(pair: Pair, shares: Sequence[float]) -> tuple[Part, ...]:
    """Training, validation and test part of a pair, in constant time: two byte pointers of the .idx a part."""
    edges = [0.0]
    for share in shares:
        edges.append(edges[-1] + share)
    bounds = [round(edge * float(pair.sequences)) for edge in edges]
    offsets = _tokens_before(pair, bounds)
    return tuple(Part(share, bounds[i + 1] - bounds[i], offsets[i + 1] - offsets[i]) for i, share in enumerate(shares))


def _tokens_before(pair: Pair, sequences: Sequence[int]) -> list[int]:
    """Tokens before each of the given sequence numbers."""
    width = next(width for name, width in DTYPES.values() if name == pair.dtype)
    pointers = HEADER.size + 4 * pair.sequences  # lengths come first
    found = []
    with open(f"{pair.prefix}.idx", "rb") as stream:  # noqa: PTH123 (a prefix with dots)
        for number in sequences:
            if number >= pair.sequences:
                found.append(pair.tokens)
                continue
            stream.seek(pointers + 8 * number)
            found.append(struct.unpack("<q", stream.read(8))[0] // width)
    return found
