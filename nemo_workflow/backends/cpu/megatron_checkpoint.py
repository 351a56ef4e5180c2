"""megatron-core 0.15.3: the checkpoint writer's helper process."""

from __future__ import annotations

from typing import Any

import torch

from nemo_workflow.backends.patching import PatchList
from nemo_workflow.backends.shard_queue import ShardQueue

PATCHES = PatchList("megatron-core")


@PATCHES(
    "megatron.core.dist_checkpointing.strategies.filesystem_async:_get_write_results_queue",
    signature="",
)
def forked_results_queue(original: Any) -> Any:
    """The original spawns the process that holds the queue: it imports the main module, and so NeMo, again (11 s before the first
    save). Spawning is there to keep CUDA out of a fork, and here is no CUDA. The forked one also dies with its rank."""
    return ShardQueue(torch.multiprocessing.get_context("fork"))
