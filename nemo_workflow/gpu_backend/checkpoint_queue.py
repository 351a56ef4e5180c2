"""The process that holds the queue of a checkpoint's writers ends with its rank.

megatron-core spawns it, since CUDA must not be in a fork, and after `kill -9` of the rank it would stay for ever.
"""

from __future__ import annotations

import os
from typing import Any


def install() -> None:
    """Stands aside where megatron-core has no such queue."""
    import torch
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if not hasattr(filesystem_async, "_get_write_results_queue"):
        return
    filesystem_async._get_write_results_queue = _Queue(torch.multiprocessing.get_context("spawn"))


class _Queue:
    """Makes the queue at the first call and hands out the same one from then on."""

    def __init__(self, context: Any):
        self.context = context
        self.manager: Any = None
        self.queue: Any = None

    def __call__(self) -> Any:
        if self.queue is None:
            from multiprocessing.managers import SyncManager

            from nemo_workflow.signals import die_with_parent

            self.manager = SyncManager(ctx=self.context)
            self.manager.start(die_with_parent, (os.getpid(),))
            self.queue = self.manager.Queue()
        return self.queue
