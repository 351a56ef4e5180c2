"""Rows for new tokens: an embedding or output layer with more entries."""

from __future__ import annotations

from itertools import chain, islice

import torch

BLOCK = 4096  # rows in fp32 at a time
NOISE = 0.1  # of each column's standard deviation: rows that begin alike would learn alike


def grown(table: torch.Tensor, pieces: dict[int, tuple[int, ...]], rows: int) -> torch.Tensor:
    """[rows, columns] in the dtype of `table`: its own rows, and for each id of `pieces` the mean of its pieces' rows.

    An id without pieces gets the mean of all of the table's rows and noise that its id seeds; a row that is no token's, in the
    padding, the mean alone. Computed in fp32.
    """
    mean, deviation = _moments(table)
    made = torch.empty((rows, table.shape[1]), dtype=table.dtype)
    made[: len(table)] = table
    made[len(table) :] = mean.to(table.dtype)
    entries = iter(pieces.items())
    while block := dict(islice(entries, BLOCK)):
        known = {token: found for token, found in block.items() if found}
        for token in block.keys() - known.keys():
            noise = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(token))
            made[token] = (mean + NOISE * deviation * noise).to(table.dtype)
        if known:
            made[torch.tensor(list(known))] = _means(table, list(known.values())).to(table.dtype)
    return made


def _means(table: torch.Tensor, groups: list[tuple[int, ...]]) -> torch.Tensor:
    """[groups, columns] in fp32: the mean of each group's rows."""
    counts = torch.tensor([len(group) for group in groups])
    owners = torch.repeat_interleave(torch.arange(len(groups)), counts)
    sums = torch.zeros((len(groups), table.shape[1]))
    sums.index_add_(0, owners, table[torch.tensor(list(chain.from_iterable(groups)))].float())
    return sums / counts[:, None]


def _moments(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, standard deviation) of the rows, in fp32; summed in fp64, a block of rows at a time."""
    total, squares = torch.zeros(2, table.shape[1], dtype=torch.float64)
    for block in table.split(BLOCK):
        wide = block.double()
        total += wide.sum(0)
        squares += wide.square().sum(0)
    mean = total / len(table)
    return mean.float(), (squares / len(table) - mean.square()).clamp(min=0).sqrt().float()
