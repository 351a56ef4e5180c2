"""Causal attention by FlashAttention 4 (package flash-attn-4) on a Hopper GPU, in place of cuDNN's by way of Transformer Engine.

Only what it was measured for takes this way (docs/performance.md): causal self-attention of plain bf16 sequences. Everything
else, and every machine without the package, stays with Transformer Engine.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import torch

from nemo_workflow.backends.gpu import aside
from nemo_workflow.backends.registry import find

HOPPER = 9  # compute capability; on others it is untried
WIDTHS = (64, 128)  # of a head; others are unmeasured
CAUSAL_WINDOWS = (None, (-1, 0), (-1, -1))
NAME = "flash-attn-4 (4 % of the speed of llama32_1b on an H100)"


def install() -> None:
    """Let megatron-core's attention take this way where it fits. Imports megatron-core; nothing without package or GPU."""
    if not available():
        return
    aside.replace(NAME, find("backends.gpu.attention:forward"))


def forward(stock: Any) -> Any:
    """Causal attention by FlashAttention 4 where it fits, for `TEDotProductAttention.forward`."""
    proof = aside.Proof(NAME, distance)

    def proven(query: torch.Tensor, key: torch.Tensor) -> bool:
        return proof.holds(query.shape[2], key.shape[2], query.shape[3], device=query.device)

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        attn_mask_type: Any,
        attention_bias: Any = None,
        packed_seq_params: Any = None,
        **more: Any,  # megatron-core 0.16: num_splits
    ) -> Any:
        bare = attention_bias is None and packed_seq_params is None and all(value is None for value in more.values())
        fit = bare and suits(module, attn_mask_type) and fits(query, key, value)
        if not (fit and proven(query, key)):
            plain = (query, key, value, attention_mask, attn_mask_type, attention_bias, packed_seq_params)
            return stock(module, *plain, **more)
        out = Attention.apply(query, key, value, module.flash_attention.softmax_scale)
        return out.reshape(*query.shape[:2], -1)

    return attend


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
    """Whether there is a Hopper GPU and the package; a package that is there but can't be used is told of."""
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
    except Exception as error:  # noqa: BLE001 - "RuntimeError: No CTK flavor installed" was seen
        aside.left_out(NAME, error)
        return False
    return True


def distance(heads: int, groups: int, width: int, device: torch.device) -> float:
    """How far the kernels' output and gradients are from plain attention's, on a short sequence."""
    draw = aside.random(device)  # of its own: training's random numbers stay
    query, key, value, above = (draw(256, 1, number, width) for number in (heads, groups, groups, heads))
    scale = width**-0.5
    ours = _with_gradients(Attention.apply, (query, key, value), above, torch.bfloat16, scale)
    return aside.apart(ours, _with_gradients(plain, (query, key, value), above, torch.float32, scale))


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
