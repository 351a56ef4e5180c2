"""The re-arrangements between Hugging Face and Megatron tensors: each a pure permutation of numbers, with its inverse.

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
    """`merge` makes the Megatron tensor of the Hugging Face ones, `split` the reverse."""

    merge: Callable[[Sequence[torch.Tensor], Dims], torch.Tensor]
    split: Callable[[torch.Tensor, Dims], Tensors]


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


def _in_turns_to_halves(tensor: torch.Tensor) -> torch.Tensor:
    """Rows (dimension 1) gate, up, gate, up, … -> all gate rows, then all up rows."""
    return torch.cat((tensor[:, ::2], tensor[:, 1::2]), dim=1)


def _halves_to_turns(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack(tensor.chunk(2, dim=1), dim=2).reshape(tensor.shape)


KINDS: dict[str, Kind] = {
    "copy": Kind(lambda parts, dims: parts[0], lambda fused, dims: (fused,)),
    # training pads the vocabulary; the rows past the model's own are cut
    "vocab": Kind(lambda parts, dims: parts[0], lambda fused, dims: (fused[: dims.vocab],)),
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
