"""Weight gradients added to the fp32 buffer inside the matrix product, without Apex.

megatron-core's output layer calls Apex's extension `fused_weight_gradient_mlp_cuda`, and NeMo turns the fusion off for
all layers where that module is missing, although Transformer Engine's layers don't need it. NVIDIA's containers have
Apex; a machine set up with pip has not. Transformer Engine's own product does the same job.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

from nemo_workflow.backends import patching
from nemo_workflow.backends.registry import find

NAME = "fused_weight_gradient_mlp_cuda"


def install() -> None:
    """Provide Apex's module unless it is there, or Transformer Engine is not."""
    if NAME in sys.modules or importlib.util.find_spec(NAME) or not importlib.util.find_spec("transformer_engine"):
        return
    from transformer_engine.pytorch.cpp_extensions import general_gemm
    from transformer_engine.pytorch.module.base import get_workspace

    if problems := patching.version_problems(find("backends.gpu.weight_gradient:install")):
        raise patching.LibraryChanged(problems[0])

    def accumulate(inputs: Any, output_gradient: Any, main_grad: Any) -> None:
        """main_grad (out, in) += output_gradient (tokens, out) transposed x inputs (tokens, in)."""
        general_gemm(
            inputs,
            output_gradient,
            get_workspace(),
            out_dtype=main_grad.dtype,
            layout="NT",
            out=main_grad,
            accumulate=True,
            grad=True,
        )

    module = types.ModuleType(NAME, "Stands in for Apex's extension of this name.")
    module.wgrad_gemm_accum_fp32 = accumulate  # type: ignore[attr-defined]
    module.wgrad_gemm_accum_fp16 = accumulate  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader(NAME, loader=None)
    sys.modules[NAME] = module
