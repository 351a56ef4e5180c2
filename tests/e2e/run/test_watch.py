"""Ranks notice the death of their launcher; a start waits for ranks that still live; stacks can be asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.run.harness import REPOSITORY

RANK = """
import os, sys, signal, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nemo_workflow.training import liveness as watch
watch.dump_stacks_on_signal(sys.stderr)
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
lock = watch.hold_ranks_lock(Path(sys.argv[2]))
watch.stop_with_launcher(lambda: float(sys.argv[3]), lambda: os.path.exists(sys.argv[2] + "/saving"))
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


def rank(folder: Path, mark: str, grace: float = 1.0) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, REPOSITORY, folder, str(grace)], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={"NEMO_WORKFLOW_LAUNCHER": mark},
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


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
    holder = psutil.Process(int(rank.stdout.readline()))
    rank.kill()
    rank.wait()
    holder.wait(timeout=10)
