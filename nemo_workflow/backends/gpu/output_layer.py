"""Output layer and cross entropy as one step of automatic differentiation, for a decoder without tensor parallelism.

Transformer Engine's cross entropy passes over the logits (tokens x vocabulary, by far the largest tensor of a small
model) six times: to find the softmax's sum, to read and write the gradient, and to multiply it by the loss's own
gradient, each from device memory; and asks the GPU in each micro batch whether that gradient is 1. Here one kernel reads
a row, whose second reading comes from the L2 cache, and writes the gradient, and the loss's gradient multiplies the
hidden states (tokens x hidden size) instead: diag(s) G W = diag(s) (G W), and (diag(s) G)' X = G' (diag(s) X).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from nemo_workflow.backends.gpu import aside
from nemo_workflow.backends.gpu.softmax import BLOCK, WARPS, largest_and_sum
from nemo_workflow.backends.registry import find

NAME = "the fused output layer and loss"
GATHERING = "DistributedDataParallel."  # hooks of megatron-core that wait for a parameter's all-gather


@triton.jit
def _loss_and_gradient(logits, labels, losses, columns, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Loss of a row of logits; the row becomes the loss's gradient. A negative label has neither."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    label = tl.load(labels + row)
    counted = label >= 0
    offsets = tl.arange(0, BLOCK)
    top, whole = largest_and_sum(logits, columns, BLOCK)
    own = tl.load(logits + tl.where(counted, label, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(counted, top + tl.log(whole) - own, 0.0))
    share = tl.where(counted, 1.0 / whole, 0.0)
    tl.debug_barrier()  # `own` is read before the row is overwritten
    for start in range(0, columns, BLOCK):
        inside = start + offsets < columns
        value = tl.load(logits + start + offsets, mask=inside, other=-1e30).to(tl.float32)
        gradient = tl.exp(value - top) * share
        gradient = tl.where((start + offsets == label) & counted, gradient - 1.0, gradient)
        tl.store(logits + start + offsets, gradient.to(logits.dtype.element_ty), mask=inside)


def loss_and_gradient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy (tokens,) in fp32 of logits (tokens, vocabulary), which are overwritten by their gradient."""
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    _loss_and_gradient[(logits.shape[0],)](
        logits, labels, losses, logits.shape[1], logits.stride(0), BLOCK=BLOCK, num_warps=WARPS
    )
    return losses


class _OutputLoss(torch.autograd.Function):
    """hidden (tokens, h), weight (vocabulary, h), labels (tokens,) -> losses (tokens,)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, fused: bool) -> Any:
        logits = hidden @ weight.t()
        losses = loss_and_gradient(logits, labels)
        ctx.save_for_backward(hidden, weight, logits)
        ctx.main_grad = weight.main_grad if fused else None  # type: ignore[attr-defined]
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        hidden, weight, logit_gradient = ctx.saved_tensors
        scale = gradients[0].unsqueeze(1)
        hidden_gradient = (logit_gradient @ weight).mul_(scale)
        scaled = torch.mul(hidden, scale, out=torch.empty_like(hidden))  # no fp32 tensor in between
        if ctx.main_grad is None:
            return hidden_gradient, logit_gradient.t() @ scaled, None, None
        import fused_weight_gradient_mlp_cuda  # Apex's, or weight_gradient.py's

        fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(scaled, logit_gradient, ctx.main_grad)
        weight.grad_added_to_main_grad = True
        # as megatron-core does: a gradient that is not used, but zero where the embedding adds its own to it
        make = torch.zeros_like if getattr(weight, "zero_out_wgrad", False) else torch.empty_like
        return hidden_gradient, make(weight), None, None


def install(fp8: bool = False) -> None:
    """Let megatron-core's GPTModel take this way where nothing speaks against it; with `fp8` in fp8 (output_layer_fp8.py)."""
    aside.replace(NAME, find("backends.gpu.output_layer:postprocess"), partial(postprocess, fp8=fp8))


def postprocess(stock: Any, fp8: bool = False) -> Any:
    """Output layer and loss as one step where it fits, for `GPTModel._postprocess`."""
    proof = aside.Proof(NAME, distance)
    step_for = _fp8_where_it_works() if fp8 else lambda hidden, weight: _OutputLoss

    def losses_of(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args or not fits(self, kwargs) or not proof.holds(device=kwargs["hidden_states"].device):
            return stock(self, *args, **kwargs)
        hidden, labels = kwargs["hidden_states"], kwargs["labels"]  # (s, b, h) and (b, s)
        for hook in self.output_layer._forward_pre_hooks.values():  # Megatron's: wait for gathered parameters
            hook(self.output_layer, (hidden,))
        weight = (
            self.shared_embedding_or_output_weight()
            if self.share_embeddings_and_output_weights
            else self.output_layer.weight
        )
        rows, batch, width = hidden.shape
        fused = self.config.gradient_accumulation_fusion and hasattr(weight, "main_grad")
        labels = labels.t().reshape(-1)
        hidden = hidden.reshape(rows * batch, width)
        losses = step_for(hidden, weight).apply(hidden, weight, labels, fused)
        return losses.view(rows, batch).t().contiguous()

    return losses_of


def _fp8_where_it_works() -> Callable[[torch.Tensor, torch.Tensor], type[torch.autograd.Function]]:
    """(hidden, weight) -> the step to take for them: fp8's, or bf16's where that fails or does not fit."""
    from nemo_workflow.backends.gpu import output_layer_fp8

    proof = aside.Proof(output_layer_fp8.NAME, output_layer_fp8.distance)

    def choose(hidden: torch.Tensor, weight: torch.Tensor) -> type[torch.autograd.Function]:
        if not output_layer_fp8.fits(hidden, weight):
            aside.left_out(output_layer_fp8.NAME, "the GPU or the sizes do not fit fp8 products")
            return _OutputLoss
        return output_layer_fp8.OutputLoss if proof.holds(device=hidden.device) else _OutputLoss

    return choose


def distance(device: torch.device) -> float:
    """How far the kernel's losses and gradients are from PyTorch's."""
    logits = aside.random(device)(6, 1000)
    labels = torch.arange(-1, 5, device=device)
    with torch.enable_grad():
        exact = logits.float().requires_grad_()
        losses = torch.nn.functional.cross_entropy(exact, labels, ignore_index=-1, reduction="none")
        right = torch.autograd.grad(losses.sum(), exact)[0]
    found = loss_and_gradient(logits, labels)
    return aside.apart([found, logits], [losses.detach(), right])


def fits(model: Any, given: dict[str, Any]) -> bool:
    """Whether a call is plain training whose output layer is a plain matrix on one rank."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear

    if not (model.training and model.post_process and given.get("labels") is not None):
        return False
    layer = model.output_layer
    return (
        type(layer) is ColumnParallelLinear  # some families put a soft cap on the logits
        and layer.bias is None
        and not layer._forward_hooks
        and all(hook.__qualname__.startswith(GATHERING) for hook in layer._forward_pre_hooks.values())
        and model.config.tensor_model_parallel_size == 1
        and not getattr(model, "mtp_process", False)
        and given.get("inference_context") is None
        and given["hidden_states"].dtype == torch.bfloat16
        and model.config.cross_entropy_loss_fusion
        and not getattr(model.config, "defer_embedding_wgrad_compute", False)
    )
