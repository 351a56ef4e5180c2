"""megatron-core 0.15.3: mixture of experts without Transformer Engine."""

from __future__ import annotations

from typing import Any

from nemo_workflow.backends.patching import ABSENT, PatchList

PATCHES = PatchList("megatron-core")


@PATCHES("megatron.core.transformer.moe.moe_utils:te_general_gemm", signature=ABSENT)
def no_te_matrix_product(original: Any) -> Any:
    """The router asks `te_general_gemm is not None`, and without Transformer Engine the name is not defined: NameError."""
    return None


@PATCHES(
    "megatron.core.transformer.moe.moe_utils:maybe_move_tensor_to_cpu",
    "megatron.core.transformer.moe.token_dispatcher:maybe_move_tensor_to_cpu",
    signature="tensor, as_numpy, record_stream",
)
def split_sizes_as_numbers(original: Any) -> Any:
    """A tensor that is on the CPU already stays one, and torch's all-to-all takes no tensor of split sizes: no EP."""

    def maybe_move_tensor_to_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and hasattr(tensor, "numpy") else tensor

    return maybe_move_tensor_to_cpu
