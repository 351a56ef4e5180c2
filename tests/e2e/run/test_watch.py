"""Ranks notice the death of their launcher; a start waits for ranks that still live; stacks can be asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.run.harness import REPOSITORY
from tests.waiting import all_gone

SPAWNER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
if __name__ == "__main__":
    from nemo_workflow.backends import patching, registry
    assert patching.replace(registry.find("backends.shard_queue:with_the_rank"))
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    queue = filesystem_async._get_write_results_queue()
    queue.put({0: ["written"]})
    assert queue.get() == {0: ["written"]} and filesystem_async._get_write_results_queue() is queue
    print(filesystem_async._get_write_results_queue.manager._process.pid, flush=True)
    signal.pause()
"""


@pytest.mark.e2e
def test_the_queue_of_the_shard_writers_dies_with_its_rank_on_a_gpu(tmp_path: Path) -> None:
    """Without a GPU: the queue's process is the same there."""
    program = tmp_path / "rank.py"
    program.write_text(SPAWNER)
    rank = subprocess.Popen([sys.executable, program, REPOSITORY], text=True, stdout=subprocess.PIPE)
    assert rank.stdout
    holder = int(rank.stdout.readline())
    rank.kill()
    rank.wait()
    assert all_gone([holder])
