"""What NeMo lacks on a GPU, for its best speed and for checkpoints that hold. `install` is called in a worker before NeMo is imported, the others after.

Each part changes no result beyond rounding and stands aside where it doesn't fit.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from nemo_workflow.backends import patching
from nemo_workflow.backends.registry import GPU_PATCHES, find


def install() -> None:
    """Make gradient accumulation fusion possible without Apex, and NeMo's import short. Before NeMo is imported."""
    from nemo_workflow.backends import memory_pool, one_logger
    from nemo_workflow.backends.gpu import aside, weight_gradient

    one_logger.leave_out()
    memory_pool.leave_out()
    aside.optional("gradient accumulation inside the weight gradient's product", weight_gradient.install)


def speed_up(say: Callable[[str], None], settings: Any) -> None:
    """Replace what is slow by kernels of ours or of flash-attn-4; one that fails is left out, and `say` is told. Imports megatron-core."""
    from nemo_workflow.backends.gpu import aside

    aside.tell(say)
    for module, name in SPEED_UPS.items():
        rows = [row for row in GPU_PATCHES if row.make.startswith(f"backends.gpu.{module}:")]
        if not all(row.needs(settings) for row in rows):
            continue
        more = {"fp8": settings.fp8_output_layer} if module == "output_layer" else {}
        aside.optional(name, functools.partial(_install, module, **more))


# module -> what its failure is called, if it fails before it can give its own name
SPEED_UPS = {
    "output_layer": "the fused output layer and loss",
    "activation": "the kernel for SwiGLU's gradient",
    "swiglu_fp8": "the kernels that cast SwiGLU's output and gradient to fp8",
    "rotary": "the kernel for the rotary embedding",
    "attention": "flash-attn-4",
}


def _install(module: str, **more: bool) -> None:
    importlib.import_module(f"{__name__}.{module}").install(**more)


def sort_tokens(config: Any) -> None:
    """Where the configuration asks for Transformer Engine's kernels that sort tokens by experts, let Triton compile them."""
    from nemo_workflow.backends.gpu import aside, permutation

    if getattr(config, "moe_permute_fusion", False):
        aside.optional(permutation.NAME, permutation.install)


def update_in_pieces(optimizer: Any) -> None:
    """Where the configuration asks for moments in bf16, their fp32 copies are made some at a time. Imports Transformer Engine."""
    from nemo_workflow.backends.gpu import aside, optimizer_update

    if str(optimizer.exp_avg_dtype) == "torch.bfloat16":
        aside.optional(optimizer_update.NAME, optimizer_update.install)


def complete_checkpoints(offloaded: bool) -> None:
    """No process of a checkpoint's writers stays behind, and an offloaded optimizer's can be read. Imports megatron-core."""
    patching.replace(find("backends.shard_queue:with_the_rank"))
    if offloaded:
        for name in ("unless_offloaded", "without_classes", "weights_from_state"):
            patching.replace(find(f"backends.gpu.offloaded_optimizer:{name}"))
