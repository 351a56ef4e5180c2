"""The process that holds the queue of a checkpoint's writers ends with its rank.

megatron-core spawns it, since CUDA must not be in a fork, and after `kill -9` of the rank it would stay for ever.
"""

from __future__ import annotations

from nemo_workflow.backends.shard_queue import ShardQueue


def install() -> None:
    """Stands aside where megatron-core has no such queue."""
    import torch
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if not hasattr(filesystem_async, "_get_write_results_queue"):
        return
    filesystem_async._get_write_results_queue = ShardQueue(torch.multiprocessing.get_context("spawn"))
