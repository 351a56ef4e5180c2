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


# a process group in a cycle that nobody holds any more: its destructor would wait in the helper for threads that a fork hasn't got
RUBBISH = """
import faulthandler, gc, os, sys
faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True)
import torch
from torch import distributed
from nemo_workflow.backends.cpu.megatron import forked_results_queue

class Knot:
    pass

gc.disable()
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
knot = Knot()
knot.me, knot.group = knot, distributed.new_group([0])
del knot
distributed.destroy_process_group()
get_queue = forked_results_queue(None)
os.register_at_fork(after_in_child=lambda: (gc.enable(), gc.set_threshold(1, 1, 1)))
queue = get_queue()
for number in range(100):
    queue.put(number)
    assert queue.get() == number
os._exit(0)  # the group is this process's to destroy, and its own end would wait for the helper too
"""


@pytest.mark.slow
def test_helper_leaves_alone_what_it_inherits() -> None:
    assert subprocess.run([sys.executable, "-c", RUBBISH, str(LIMIT / 2)], timeout=LIMIT).returncode == 0
