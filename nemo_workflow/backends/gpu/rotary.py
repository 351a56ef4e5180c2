"""Rotary embedding on the joint product of queries, keys and values: one program a position, all its heads at once.

Transformer Engine's kernels for this take 2.5 times as long as reading and writing the tensors takes. The arithmetic is
the same: angles and rotation in fp32, rounded once; values are copied.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from nemo_workflow.backends.gpu import aside
from nemo_workflow.backends.registry import find

NAME = "the kernel for the rotary embedding"
WARPS = 4


@triton.jit
def _rotate(  # type: ignore[no-untyped-def]
    joint,
    query,
    key,
    value,
    angles,
    stride,
    batch,
    GROUPS: tl.constexpr,
    QUERIES: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BACK: tl.constexpr,
):
    """Forward: joint -> query, key, value. BACK: the gradients of those -> joint's.

    joint (s, b, groups, queries + 2, 2 half), query (s, b, groups x queries, 2 half), key and value (s, b, groups,
    2 half), angles (s, stride) of which the first half is read. HEADS is groups x (queries + 2), up to a power of two.
    """
    position = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, HALF)[None, :]
    angle = tl.load(angles + position * stride + column)
    cosine, sine = tl.cos(angle), tl.sin(angle)
    if BACK:
        sine = -sine
    group, slot = head // (QUERIES + 2), head % (QUERIES + 2)
    there = (head < GROUPS * (QUERIES + 2)) & (column >= 0)
    is_query, is_key, is_value = there & (slot < QUERIES), there & (slot == QUERIES), there & (slot > QUERIES)
    for item in range(batch):
        token = position * batch + item
        at = joint + (token * GROUPS * (QUERIES + 2) + head) * 2 * HALF + column
        at_query = query + (token * GROUPS * QUERIES + group * QUERIES + slot) * 2 * HALF + column
        at_key = key + (token * GROUPS + group) * 2 * HALF + column
        at_value = value + (token * GROUPS + group) * 2 * HALF + column
        kind = joint.dtype.element_ty
        if BACK:
            left = (
                tl.load(at_query, mask=is_query, other=0.0)
                + tl.load(at_key, mask=is_key, other=0.0)
                + tl.load(at_value, mask=is_value, other=0.0)
            ).to(tl.float32)
            right = (
                tl.load(at_query + HALF, mask=is_query, other=0.0)
                + tl.load(at_key + HALF, mask=is_key, other=0.0)
                + tl.load(at_value + HALF, mask=is_value, other=0.0)
            ).to(tl.float32)
        else:
            left = tl.load(at, mask=there, other=0.0).to(tl.float32)
            right = tl.load(at + HALF, mask=there, other=0.0).to(tl.float32)
        new_left = tl.where(is_value, left, left * cosine - right * sine).to(kind)
        new_right = tl.where(is_value, right, right * cosine + left * sine).to(kind)
        if BACK:
            tl.store(at, new_left, mask=there)
            tl.store(at + HALF, new_right, mask=there)
        else:
            tl.store(at_query, new_left, mask=is_query)
            tl.store(at_query + HALF, new_right, mask=is_query)
            tl.store(at_key, new_left, mask=is_key)
            tl.store(at_key + HALF, new_right, mask=is_key)
            tl.store(at_value, new_left, mask=is_value)
            tl.store(at_value + HALF, new_right, mask=is_value)


def _run(joint: Any, query: Any, key: Any, value: Any, angles: torch.Tensor, back: bool) -> None:
    length, batch, groups, _ = joint.shape
    width = key.shape[-1]
    queries = query.shape[2] // groups
    heads = triton.next_power_of_2(groups * (queries + 2))
    _rotate[(length,)](
        joint, query, key, value, angles, angles.shape[-1], batch,
        GROUPS=groups, QUERIES=queries, HEADS=heads, HALF=width // 2, BACK=back, num_warps=WARPS,
    )  # fmt: skip


class Rotary(torch.autograd.Function):
    """joint (s, b, groups, (queries + 2) x width), angles (s, 1, 1, width), width -> query, key, value (s, b, heads, width)."""

    @staticmethod
    def forward(ctx: Any, joint: torch.Tensor, angles: torch.Tensor, width: int) -> Any:
        length, batch, groups, columns = joint.shape
        query = joint.new_empty(length, batch, groups * (columns // width - 2), width)
        key, value = joint.new_empty(length, batch, groups, width), joint.new_empty(length, batch, groups, width)
        _run(joint, query, key, value, angles, back=False)
        ctx.save_for_backward(angles)
        ctx.shape = joint.shape
        return query, key, value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value = (gradient.contiguous() for gradient in gradients)
        joint = query.new_empty(ctx.shape)
        _run(joint, query, key, value, ctx.saved_tensors[0], back=True)
        return joint, None, None


def install() -> None:
    """Let megatron-core's attention take this way where its call is the plain one. Imports megatron-core."""
    from megatron.core.transformer import attention

    # None without Transformer Engine, or with one that has no such kernel: the setting is off then
    if getattr(attention, "apply_fused_qkv_rotary_pos_emb", None) is not None:
        aside.replace(NAME, find("backends.gpu.rotary:apply_rotary"))


def apply_rotary(stock: Any) -> Any:
    """The rotary embedding by our kernel where it fits, for `apply_fused_qkv_rotary_pos_emb`."""
    proof = aside.Proof(NAME, distance)

    def proven(joint: torch.Tensor, split: list[int]) -> bool:
        return proof.holds(joint.shape[2], split[0] // split[1], split[1], device=joint.device)

    def apply(joint: torch.Tensor, q_angles: Any, k_angles: Any, split: list[int], *args: Any, **kwargs: Any) -> Any:
        plain = not args and not kwargs and fits(joint, q_angles, k_angles, split)
        if not (plain and proven(joint, split)):
            return stock(joint, q_angles, k_angles, split, *args, **kwargs)
        return Rotary.apply(joint, q_angles, split[1])

    return apply


def distance(groups: int, queries: int, width: int, device: torch.device) -> float:
    """How far the kernel's queries, keys, values and gradient are from PyTorch's."""
    draw, length, batch = aside.random(device), 5, 2
    joint = draw(length, batch, groups, (queries + 2) * width)
    angles = torch.outer(
        torch.arange(length, device=device), 10_000 ** -(torch.arange(width, device=device) % (width // 2) * 2 / width)
    )
    angles = angles[:, None, None, :].float()

    def turned(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return x * angles.cos() + torch.cat((-right, left), -1) * angles.sin()

    def plain(joint: torch.Tensor) -> Any:
        query, key, value = joint.split([queries * width, width, width], -1)
        return turned(query.reshape(length, batch, groups * queries, width)), turned(key), value

    with torch.enable_grad():
        mine, exact = joint.clone().requires_grad_(), joint.float().requires_grad_()
        ours, right = Rotary.apply(mine, angles, width), plain(exact)
        above = [draw(*tensor.shape) for tensor in ours]
        ours += torch.autograd.grad(ours, mine, above)
        right += torch.autograd.grad(right, exact, [tensor.float() for tensor in above])
    return aside.apart(ours, right)


def fits(joint: torch.Tensor, q_angles: torch.Tensor, k_angles: torch.Tensor, split: list[int]) -> bool:
    """Whether a call turns whole heads by the same angles, as megatron-core's plain rotary embedding does."""
    width = split[1]
    return (
        joint.dtype == torch.bfloat16
        and joint.is_contiguous()
        and q_angles is k_angles
        and q_angles.dtype == torch.float32
        and q_angles.is_contiguous()
        and tuple(q_angles.shape[1:]) == (1, 1, width)
        and q_angles.shape[0] >= joint.shape[0]
        and split[2] == width
        and width >= 32
        and width & (width - 1) == 0
    )
