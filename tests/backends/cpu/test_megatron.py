"""The checkpoint writer's helper process: a fork that ends with its rank, however the rank ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT, all_gone

# No `if __name__ == "__main__"`: a spawned helper would run this again.
RANK = """
import os, pathlib, signal
from nemo_workflow.backends.cpu.megatron import forked_results_queue
get_queue = forked_results_queue(None)
queue = get_queue()
assert get_queue() is queue
queue.put("written")
assert queue.get() == "written"
print(pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_helper_dies_with_a_killed_rank(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:  # no pipe: a helper that lives on would keep it open
        rank = subprocess.run([sys.executable, "-c", RANK], stdout=out, timeout=LIMIT)
    helpers = [int(pid) for pid in (tmp_path / "out").read_text().split()]
    assert rank.returncode == -signal.SIGKILL and len(helpers) == 1
    assert all_gone(helpers)
