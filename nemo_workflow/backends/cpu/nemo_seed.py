"""NeMo 2.7.3: seed the streams of model parallelism on a machine without a GPU too."""

from __future__ import annotations

from typing import Any

from nemo_workflow.backends.patching import PatchList

PATCHES = PatchList("nemo_toolkit")


@PATCHES("nemo.lightning.megatron_init:_set_random_seed", signature="seed_")
def seed_streams(original: Any) -> Any:
    """The original seeds megatron-core's streams only `if torch.cuda.device_count() > 0`."""

    def set_random_seed(seed_: int) -> None:
        from megatron.core import parallel_state, tensor_parallel

        original(seed_)
        tensor_parallel.model_parallel_cuda_manual_seed(seed_ + 100 * parallel_state.get_pipeline_model_parallel_rank())

    return set_random_seed
