"""Causal attention by FlashAttention 4 (package flash-attn-4) on a Hopper GPU, in place of cuDNN's by way of Transformer Engine.

Only what it was measured for takes this way (docs/performance.md): causal self-attention of plain bf16 sequences. Everything
else, and every machine without the package, stays with Transformer Engine.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from typing import Any

import torch

HOPPER = 9  # compute capability; on others it is untried
WIDTHS = (64, 128)  # of a head; others are unmeasured
CAUSAL_WINDOWS = (None, (-1, 0), (-1, -1))
FAR = 0.02  # of a result's norm; in bf16 0.002 to 0.003 are seen
LOG = logging.getLogger(__name__)


def install() -> None:
    """Let megatron-core's attention take this way where it fits. Imports megatron-core; nothing without package or GPU."""
    if not available():
        return
    from megatron.core.extensions.transformer_engine import TEDotProductAttention

    stock = TEDotProductAttention.forward
    works: dict[tuple[int, int], bool] = {}  # by heads of query and of key

    def proven(query: torch.Tensor, key: torch.Tensor) -> bool:
        heads = query.shape[2], key.shape[2]
        if heads not in works:
            works[heads] = agrees(*heads, query.shape[3], query.device)
        return works[heads]

    def forward(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        attn_mask_type: Any,
        attention_bias: Any = None,
        packed_seq_params: Any = None,
    ) -> Any:
        bare = attention_bias is None and packed_seq_params is None
        fit = bare and suits(module, attn_mask_type) and fits(query, key, value)
        if not (fit and proven(query, key)):
            return stock(module, query, key, value, attention_mask, attn_mask_type, attention_bias, packed_seq_params)
        out = Attention.apply(query, key, value, module.flash_attention.softmax_scale)
        return out.reshape(*query.shape[:2], -1)

    TEDotProductAttention.forward = forward


class Attention(torch.autograd.Function):
    """Causal attention of query (s, b, heads, width), key and value (s, b, groups, width): (s, b, heads, width).

    The package's own function returns (b, s, …), and a copy of it into megatron-core's order would be held beside it until
    the backward pass. Its two inner functions write where they are told to.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        from flash_attn.cute.interface import _flash_attn_fwd

        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        q, k, v, o = (tensor.transpose(0, 1) for tensor in (query, key, value, out))
        log_sum = _flash_attn_fwd(q, k, v, softmax_scale=scale, causal=True, return_lse=True, out=o)[1]
        ctx.save_for_backward(query, key, value, out, log_sum)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> Any:
        from flash_attn.cute.interface import _flash_attn_bwd

        *tensors, log_sum = ctx.saved_tensors
        gradients = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in tensors[:3]]
        dq, dk, dv = (gradient.transpose(0, 1) for gradient in gradients)
        q, k, v, out, d = (tensor.transpose(0, 1) for tensor in (*tensors, above))
        _flash_attn_bwd(q, k, v, out, d, log_sum, ctx.scale, True, dq=dq, dk=dk, dv=dv)
        return *gradients, None


def available() -> bool:
    """Whether there is a Hopper GPU and the package; one that is there but can't be imported is named in the rank's log."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != HOPPER:
        return False
    try:
        if importlib.util.find_spec("flash_attn.cute") is None:
            return False
    except ModuleNotFoundError:
        return False
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")  # its kernels take seconds to compile
    try:
        importlib.import_module("flash_attn.cute.interface")
    except ImportError as error:
        LOG.warning("flash-attn-4 is left out: %s", error)
        return False
    return True


def agrees(heads: int, groups: int, width: int, device: torch.device) -> bool:
    """Whether the kernels, compiled for this GPU, give plain attention's output and gradients; if not, the log says why.

    The package is young and compiles its kernels where it runs, at the first call in any case.
    """
    source = torch.Generator(device).manual_seed(0)  # of its own: training's random numbers stay
    shapes = [(256, 1, number, width) for number in (heads, groups, groups, heads)]
    query, key, value, above = (torch.randn(shape, generator=source, device=device) for shape in shapes)
    scale = width**-0.5
    try:
        ours = _with_gradients(Attention.apply, (query, key, value), above, torch.bfloat16, scale)
        exact = _with_gradients(plain, (query, key, value), above, torch.float32, scale)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is another way to train
        LOG.warning("flash-attn-4 is left out: %s: %s", type(error).__name__, error)
        return False
    far = max(float((mine - right).norm() / right.norm()) for mine, right in zip(ours, exact, strict=True))
    if not far < FAR:
        LOG.warning("flash-attn-4 is left out: its results are %.3g from plain attention's", far)
    return far < FAR


def _with_gradients(attend: Any, inputs: Any, above: torch.Tensor, kind: torch.dtype, scale: float) -> list[Any]:
    with torch.enable_grad():
        leaves = [tensor.to(kind).requires_grad_() for tensor in inputs]
        out = attend(*leaves, scale)
        gradients = torch.autograd.grad(out, leaves, above.to(kind))
    return [tensor.detach().float() for tensor in (out, *gradients)]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """What Attention computes, by PyTorch in the tensors' own precision."""
    shared = query.shape[2] // key.shape[2]
    q, k, v = query, key.repeat_interleave(shared, 2), value.repeat_interleave(shared, 2)
    q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return out.permute(2, 0, 1, 3)


def suits(module: Any, kind: Any) -> bool:
    """Whether a TEDotProductAttention asks for nothing but causal attention of whole sequences.

    Its gradient of the queries is summed in no fixed order, so `--deterministic` stays with Transformer Engine; so does
    offloading, whose hooks know Transformer Engine's tensors only.
    """
    config = module.config
    return bool(
        kind.name == "causal"
        and module.attention_type == "self"
        and getattr(module, "softmax_type", "vanilla") == "vanilla"  # an older Transformer Engine has no other
        and module.window_size in CAUSAL_WINDOWS
        and not module.attention_dropout
        and not module.deterministic
        and config.context_parallel_size == 1
        and not config.cpu_offloading
        and not (config.fp8_dot_product_attention or config.fp8_multi_head_attention)
    )


def fits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Tensors (s, b, heads, width), the heads of key and value dividing those of the query."""
    widths = {tensor.shape[-1] for tensor in (query, key, value)}
    return (
        all(tensor.dtype == torch.bfloat16 and tensor.dim() == 4 for tensor in (query, key, value))
        and len(widths) == 1
        and widths <= set(WIDTHS)
        and query.shape[0] == key.shape[0]
        and query.shape[2] % key.shape[2] == 0
    )
