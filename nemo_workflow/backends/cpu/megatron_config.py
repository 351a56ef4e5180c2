"""megatron-core 0.15.3: no fused kernels, weights made on the CPU."""

from __future__ import annotations

import functools
from typing import Any

from nemo_workflow.backends.patching import PatchList

PATCHES = PatchList("megatron-core")

# Each needs Transformer Engine, Apex or a CUDA kernel; the results are those of the plain operations.
FUSIONS = (
    "apply_rope_fusion",
    "persist_layer_norm",
    "gradient_accumulation_fusion",
    "masked_softmax_fusion",
    "bias_dropout_fusion",
    "bias_activation_fusion",
    "cross_entropy_loss_fusion",
    "moe_permute_fusion",
    "moe_grouped_gemm",
    "moe_router_fusion",
)


@PATCHES("megatron.core.transformer.transformer_config:TransformerConfig.__post_init__", signature="self")
def plain_operations(original: Any) -> Any:
    """NeMo's model configs and recipes ask for the fusions by default. They change speed, not results, so they are switched off
    before the config checks itself. Weights are made by the CPU: the other way needs a CUDA generator."""

    @functools.wraps(original)
    def post_init(self: Any) -> None:
        for fusion in FUSIONS:
            setattr(self, fusion, False)
        self.use_cpu_initialization = True
        original(self)

    return post_init
