"""The re-arrangements between Hugging Face and Megatron tensors: each a pure permutation of numbers, with its inverse,
but for rows that are divided by their length (Baichuan 2).

They work on meta tensors as well, which is how shapes are planned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Dims:
    """What a re-arrangement needs to know of the model."""

    heads: int
    groups: int
    head_dim: int
    vocab: int


@dataclass(frozen=True)
class Kind:
    """`merge` makes the Megatron tensor of the Hugging Face ones, `split` the reverse.

    `kept` is what of a Hugging Face tensor comes back: all of it, but where the model computes with something made of it.
    """

    merge: Callable[[Sequence[torch.Tensor], Dims], torch.Tensor]
    split: Callable[[torch.Tensor, Dims], Tensors]
    kept: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor


def _merge_qkv(parts: Sequence[torch.Tensor], dims: Dims) -> torch.Tensor:
    """q [heads*d, …], k and v [groups*d, …] -> [groups * (heads/groups + 2) * d, …]: each group's q rows, then k, then v."""
    grouped = [part.reshape(dims.groups, -1, *part.shape[1:]) for part in parts]
    return torch.cat(grouped, dim=1).reshape(-1, *parts[0].shape[1:])


def _split_qkv(fused: torch.Tensor, dims: Dims) -> Tensors:
    per_group = dims.heads // dims.groups * dims.head_dim
    grouped = fused.reshape(dims.groups, -1, *fused.shape[1:])
    parts = grouped.split([per_group, dims.head_dim, dims.head_dim], dim=1)
    return tuple(part.reshape(-1, *fused.shape[1:]) for part in parts)


def _qkv_sizes(dims: Dims) -> list[int]:
    return [dims.heads * dims.head_dim, dims.groups * dims.head_dim, dims.groups * dims.head_dim]


def rows_of(part: str, stacked: torch.Tensor, dims: Dims) -> torch.Tensor:
    """The rows of "q", "k" or "v" in a tensor that holds all of q, then all of k, then all of v."""
    return stacked.split(_qkv_sizes(dims))["qkv".index(part)]


ROWS = 8192  # of a vocabulary, in fp64 at a time
SHORTEST = 1e-12  # a shorter row is divided by this
MOST_ROUNDS = 8


def unit_rows(table: torch.Tensor) -> torch.Tensor:
    """Each row divided by its length, in the dtype of `table`.

    Such rows stay the same bits: short ones, which rounding makes longer or shorter again, are divided until they do.
    """
    if table.is_meta:
        return table
    made = torch.empty_like(table)
    for rows, divided in zip(table.split(ROWS), made.split(ROWS), strict=True):
        _divide(rows, divided)
    return made


def _divide(rows: torch.Tensor, divided: torch.Tensor) -> None:
    # a division by a length this near to one is rounded back to the same bits: half a step of a number is a fourth or more
    near = torch.finfo(rows.dtype).eps / 8
    for _ in range(MOST_ROUNDS):
        wide = rows.double()
        divided.copy_(wide.div_(wide.norm(dim=1, keepdim=True).clamp_min(SHORTEST)))
        lengths = divided.norm(dim=1, dtype=torch.float64)
        if not ((lengths - 1).abs() > near).logical_and(lengths > 0).any() or torch.equal(rows, divided):
            break
        rows = divided.clone()


def _in_turns_to_halves(tensor: torch.Tensor) -> torch.Tensor:
    """Rows (dimension 1) gate, up, gate, up, … -> all gate rows, then all up rows."""
    return torch.cat((tensor[:, ::2], tensor[:, 1::2]), dim=1)


def _halves_to_turns(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack(tensor.chunk(2, dim=1), dim=2).reshape(tensor.shape)


KINDS: dict[str, Kind] = {
    "copy": Kind(lambda parts, dims: parts[0], lambda fused, dims: (fused,)),
    # training pads the vocabulary; the rows past the model's own are cut
    "vocab": Kind(lambda parts, dims: parts[0], lambda fused, dims: (fused[: dims.vocab],)),
    "vocab_unit": Kind(
        lambda parts, dims: unit_rows(parts[0]), lambda fused, dims: (fused[: dims.vocab],), kept=unit_rows
    ),
    "qkv": Kind(_merge_qkv, _split_qkv),
    # one tensor that holds all of q, then all of k, then all of v
    "qkv_stacked": Kind(
        lambda parts, dims: _merge_qkv(parts[0].split(_qkv_sizes(dims)), dims),
        lambda fused, dims: (torch.cat(_split_qkv(fused, dims)),),
    ),
    # all experts of a layer in one tensor: [experts, in, out] in the Hugging Face model, [experts, out, in] in Megatron
    "transposed": Kind(
        lambda parts, dims: parts[0].transpose(1, 2), lambda fused, dims: (fused.transpose(1, 2).contiguous(),)
    ),
    "turns": Kind(lambda parts, dims: _in_turns_to_halves(parts[0]), lambda fused, dims: (_halves_to_turns(fused),)),
    "turns_transposed": Kind(
        lambda parts, dims: _in_turns_to_halves(parts[0].transpose(1, 2)),
        lambda fused, dims: (_halves_to_turns(fused).transpose(1, 2).contiguous(),),
    ),
    "gate_up": Kind(lambda parts, dims: torch.cat(tuple(parts)), lambda fused, dims: tuple(fused.chunk(2))),
}
