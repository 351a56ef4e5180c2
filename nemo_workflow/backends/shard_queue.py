"""The queue through which the writers of a checkpoint's shards tell what they wrote; its process ends with the rank."""

from __future__ import annotations

import os
from typing import Any

from nemo_workflow.utils.processes import die_with_parent


class ShardQueue:
    """Makes the queue, in a process that `context` (of torch.multiprocessing) starts, at the first call; gives the same one from then on."""

    def __init__(self, context: Any):
        self.context = context
        self.manager: Any = None
        self.queue: Any = None

    def __call__(self) -> Any:
        if self.queue is None:
            from multiprocessing.managers import SyncManager

            self.manager = SyncManager(ctx=self.context)
            self.manager.start(die_with_parent, (os.getpid(),))
            self.queue = self.manager.Queue()
        return self.queue


def with_the_rank(original: Any) -> Any:
    """A queue in a spawned process, as megatron-core's own, that ends with its rank."""
    import torch

    return ShardQueue(torch.multiprocessing.get_context("spawn"))
