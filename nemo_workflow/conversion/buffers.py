"""Tensors that need little fresh memory, which costs a conversion more than comparing and widening what is in it."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import torch


def mapped(path: Path, begin: int, nbytes: int) -> torch.Tensor:
    """`nbytes` bytes of a file from `begin` on, mapped for as long as the tensor lives: [nbytes] uint8, not to be written to."""
    start = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    if nbytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    with path.open("rb") as stream:  # ACCESS_COPY: torch warns of memory that is read-only
        pages = mmap.mmap(stream.fileno(), begin - start + nbytes, offset=start, access=mmap.ACCESS_COPY)
    pages.madvise(mmap.MADV_WILLNEED)
    # by way of NumPy, so that the tensor's storage has its own size: torch saves whole storages
    return torch.from_numpy(np.frombuffer(pages, np.uint8, nbytes, begin - start))


def only_rows(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """[rows, columns] in fp32 like `table`, with zeros for all but the `rows` named; memory is taken for these alone."""
    wide = torch.from_numpy(np.frombuffer(mmap.mmap(-1, 4 * table.numel()), np.float32)).view(table.shape)
    found = rows.unique()
    wide[found] = table[found].float()
    return wide


class Scratch:
    """Gives tensors without values; after `clear` it gives their memory again, and they may not be used any more.

    Meant for work that asks for tensors of the same sizes in the same order, as each decoder layer does.
    """

    def __init__(self) -> None:
        self._blocks: list[torch.Tensor] = []
        self._taken = 0

    def take(self, shape: torch.Size) -> torch.Tensor:
        """A contiguous fp32 tensor."""
        count = shape.numel()
        if self._taken == len(self._blocks):
            self._blocks.append(torch.empty(0))
        if self._blocks[self._taken].numel() < count:
            self._blocks[self._taken] = torch.empty(count)
        block = self._blocks[self._taken]
        self._taken += 1
        return block[:count].view(shape)

    def clear(self) -> None:
        """End the use of all tensors that were given."""
        self._taken = 0
