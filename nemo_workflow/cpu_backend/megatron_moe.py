"""megatron-core 0.15.3: mixture of experts without Transformer Engine."""

from __future__ import annotations

from typing import Any

from nemo_workflow.cpu_backend.patching import ABSENT, PatchList

PATCHES = PatchList("megatron-core")


@PATCHES("megatron.core.transformer.moe.moe_utils:te_general_gemm", signature=ABSENT)
def no_te_matrix_product(original: Any) -> Any:
    """The router asks `te_general_gemm is not None`, and without Transformer Engine the name is not defined: NameError."""
    return None
