"""megatron-core 0.15.3: the checkpoint writer's helper process."""

from __future__ import annotations

import os
from multiprocessing.managers import SyncManager
from typing import Any

import torch

from nemo_workflow.cpu_backend.patching import PatchList
from nemo_workflow.signals import die_with_parent

PATCHES = PatchList("megatron-core")


@PATCHES(
    "megatron.core.dist_checkpointing.strategies.filesystem_async:_get_write_results_queue",
    signature="",
)
def forked_results_queue(original: Any) -> Any:
    """The original spawns the process that holds the queue: it imports the main module, and so NeMo, again (11 s before the first
    save). Spawning is there to keep CUDA out of a fork, and here is no CUDA. The forked one also dies with its rank."""
    manager: SyncManager | None = None
    queue: Any = None

    def get_write_results_queue() -> Any:
        nonlocal manager, queue
        if queue is None:
            manager = SyncManager(ctx=torch.multiprocessing.get_context("fork"))
            manager.start(die_with_parent, (os.getpid(),))
            queue = manager.Queue()
        return queue

    return get_write_results_queue
