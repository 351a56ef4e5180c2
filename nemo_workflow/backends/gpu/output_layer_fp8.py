"""The output layer's three matrix products in fp8 (--fp8-output-layer), with its loss: what output_layer.py does, at fp8's rate.

Hidden states and weights are scaled by their largest value (current scaling, e4m3). The loss's gradient lies between -1 and 1
and is written as e5m2 by the very kernel that computes it, over the logits. cuBLAS takes fp8 operands only with the summed
dimension contiguous, so that what is summed over tokens is also written transposed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from nemo_workflow.backends.gpu import aside
from nemo_workflow.backends.gpu.softmax import BLOCK, WARPS, largest_and_sum

NAME = "the output layer in fp8"
CAPABILITY = (8, 9)  # Ada and Hopper: the first with fp8 products
E4M3_LARGEST = 448.0
GRADIENT_SCALE = 2.0**15  # e5m2 ends at 57,344
TILE = 64
MULTIPLE = 16  # of every dimension of an fp8 product
ROUNDING = 0.1  # of a gradient's norm: e5m2 has two bits of a fraction
CHUNK = 16384  # tokens of which the gradient is transposed at once


@triton.jit
def _loss_and_gradient(  # type: ignore[no-untyped-def]
    logits, labels, losses, gradients, columns, stride, gradient_stride, scale, BLOCK: tl.constexpr
):
    """Loss of a row of logits, and its gradient times `scale` in fp8. A negative label has neither.

    `gradients` may lie over `logits`, a row over its own: a block of it covers what has been read by then.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    gradients += row * gradient_stride
    label = tl.load(labels + row)
    counted = label >= 0
    offsets = tl.arange(0, BLOCK)
    top, whole = largest_and_sum(logits, columns, BLOCK)
    own = tl.load(logits + tl.where(counted, label, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(counted, top + tl.log(whole) - own, 0.0))
    share = tl.where(counted, scale / whole, 0.0)
    tl.debug_barrier()  # `own` is read before the row is overwritten
    for start in range(0, columns, BLOCK):
        inside = start + offsets < columns
        value = tl.load(logits + start + offsets, mask=inside, other=-1e30).to(tl.float32)
        tl.debug_barrier()  # the first block's gradient lies over its own logits
        gradient = tl.exp(value - top) * share
        gradient = tl.where((start + offsets == label) & counted, gradient - scale, gradient)
        tl.store(gradients + start + offsets, gradient.to(gradients.dtype.element_ty), mask=inside)


@triton.jit
def _quantize(  # type: ignore[no-untyped-def]
    source, scale, straight, turned, rows, columns, LARGEST: tl.constexpr, TILE: tl.constexpr
):
    """source (rows, columns) x scale in fp8, as it is and transposed (columns, rows)."""
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    value = tl.load(source + row[:, None] * columns + column[None, :], mask=inside, other=0.0).to(tl.float32)
    value = tl.minimum(tl.maximum(value * tl.load(scale), -LARGEST), LARGEST)
    kind = straight.dtype.element_ty
    tl.store(straight + row[:, None] * columns + column[None, :], value.to(kind), mask=inside)
    across = (column[:, None] < columns) & (row[None, :] < rows)
    tl.store(turned + column[:, None] * rows + row[None, :], tl.trans(value).to(kind), mask=across)


@triton.jit
def _transpose(source, result, rows, columns, stride, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Bytes (rows, columns), rows `stride` apart -> (columns, rows)."""
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    value = tl.load(source + row[:, None] * stride + column[None, :], mask=inside, other=0)
    across = (column[:, None] < columns) & (row[None, :] < rows)
    tl.store(result + column[:, None] * rows + row[None, :], tl.trans(value), mask=across)


def loss_and_gradient(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy (tokens,) in fp32 of bf16 logits (tokens, vocabulary), and their gradient x GRADIENT_SCALE in e5m2.

    The gradient, of the same shape, lies in the first half of each row of `logits`.
    """
    tokens, vocabulary = logits.shape
    losses = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    gradients = logits.view(torch.float8_e5m2)[:, :vocabulary]
    _loss_and_gradient[(tokens,)](
        logits, labels, losses, gradients, vocabulary, logits.stride(0), gradients.stride(0), GRADIENT_SCALE,
        BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return losses, gradients


def quantize(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A contiguous (rows, columns) tensor in e4m3, its transpose (columns, rows), and what either is to be multiplied by."""
    rows, columns = tensor.shape
    largest = torch.linalg.vector_norm(tensor, ord=float("inf"), dtype=torch.float32).clamp_(min=1e-12)
    straight = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=tensor.device)
    turned = torch.empty(columns, rows, dtype=torch.float8_e4m3fn, device=tensor.device)
    grid = (triton.cdiv(rows, TILE), triton.cdiv(columns, TILE))
    _quantize[grid](tensor, E4M3_LARGEST / largest, straight, turned, rows, columns, LARGEST=E4M3_LARGEST, TILE=TILE)
    return straight, turned, largest / E4M3_LARGEST


def transposed(gradients: torch.Tensor) -> torch.Tensor:
    """An fp8 tensor (tokens, vocabulary), whose rows may lie apart, as contiguous (vocabulary, tokens)."""
    tokens, vocabulary = gradients.shape
    result = torch.empty(vocabulary, tokens, dtype=torch.uint8, device=gradients.device)
    grid = (triton.cdiv(tokens, TILE), triton.cdiv(vocabulary, TILE))
    _transpose[grid](gradients.view(torch.uint8), result, tokens, vocabulary, gradients.stride(0), TILE=TILE)
    return result.view(gradients.dtype)


def product(
    left: torch.Tensor, right: torch.Tensor, factors: tuple[torch.Tensor, torch.Tensor], kind: torch.dtype, fast: bool
) -> torch.Tensor:
    """left (m, k) x right (n, k) transposed, both in fp8, times both factors: (m, n). `fast` sums in less than fp32."""
    return torch._scaled_mm(left, right.t(), *factors, out_dtype=kind, use_fast_accum=fast)


class OutputLoss(torch.autograd.Function):
    """hidden (tokens, h), weight (vocabulary, h), labels (tokens,) -> losses (tokens,)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, fused: bool) -> Any:
        states, _, state_factor = quantize(hidden)
        table, turned_table, table_factor = quantize(weight)
        logits = product(states, table, (state_factor, table_factor), hidden.dtype, fast=True)
        losses, gradients = loss_and_gradient(logits, labels)
        ctx.save_for_backward(hidden, weight, gradients, turned_table, table_factor)
        ctx.main_grad = weight.main_grad if fused else None  # type: ignore[attr-defined]
        return losses

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> Any:
        hidden, weight, gradients, turned_table, table_factor = ctx.saved_tensors
        factor = torch.full((), 1 / GRADIENT_SCALE, device=hidden.device)
        scale = above[0].unsqueeze(1)
        of_hidden = product(gradients, turned_table, (factor, table_factor), hidden.dtype, fast=False).mul_(scale)
        del turned_table
        total = ctx.main_grad
        if total is None:
            total = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for begin in range(0, hidden.shape[0], CHUNK):
            part = slice(begin, begin + CHUNK)
            scaled = torch.mul(hidden[part], scale[part], out=torch.empty_like(hidden[part]))
            _, turned, state_factor = quantize(scaled)
            total += product(transposed(gradients[part]), turned, (factor, state_factor), torch.float32, fast=False)
        if ctx.main_grad is None:
            return of_hidden, total.to(weight.dtype), None, None
        weight.grad_added_to_main_grad = True
        # as megatron-core does: a gradient that is not used, but zero where the embedding adds its own to it
        make = torch.zeros_like if getattr(weight, "zero_out_wgrad", False) else torch.empty_like
        return of_hidden, make(weight), None, None


def fits(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    """hidden (tokens, h), weight (vocabulary, h): whether fp8 products take their sizes on this GPU."""
    sizes = (*hidden.shape, weight.shape[0], hidden.shape[0] % CHUNK)
    able = hidden.is_cuda and torch.cuda.get_device_capability(hidden.device) >= CAPABILITY
    return able and weight.is_contiguous() and not any(size % MULTIPLE for size in sizes)


def distance(device: torch.device) -> float:
    """How far losses and gradients are from PyTorch's in fp32, less what fp8's rounding explains (its gradients: 4 %)."""
    draw = aside.random(device)
    hidden, weight = draw(64, 128).requires_grad_(), (draw(1024, 128) * 0.1).requires_grad_()
    labels = torch.arange(64, device=device)
    with torch.enable_grad():
        ours = [OutputLoss.apply(hidden, weight, labels, False)]
        ours += torch.autograd.grad(ours[0].sum(), (hidden, weight))
        exact = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
        right = [torch.nn.functional.cross_entropy(exact[0] @ exact[1].t(), labels, reduction="none")]
        right += torch.autograd.grad(right[0].sum(), exact)
    return aside.apart([tensor.detach() for tensor in ours], [tensor.detach() for tensor in right]) - ROUNDING
