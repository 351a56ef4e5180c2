"""How a rank ends that has failed. NCCL, whose process groups wait for each other, can't be had here: gloo's stand for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.run.harness import REPOSITORY
from tests.places import Place
from tests.waiting import LIMIT

RANK = """
import atexit, functools, sys, threading, time
from pathlib import Path

import torch
from lightning.fabric.utilities import distributed
from nemo.lightning.pytorch.strategies import utils
from nemo_workflow.training import rank, worker

def be(*_):
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    torch.distributed.destroy_process_group = lambda: print("waits for the others", flush=True)
    for library in (distributed, utils):  # as Lightning and NeMo do with NCCL
        atexit.register(library._destroy_dist_connection)
    exec(sys.argv[2])

worker.load = lambda accelerator: be
worker.END_SECONDS = 1
rank.leave(rank.code_of(functools.partial(worker.train, Path(sys.argv[1]).read_text(), str(Path(sys.argv[1]).parent))))
"""


def be_rank(place: Place, end: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A rank that does `end` once it has its process groups, and the folder of its attempt."""
    plan = place.plan("--accelerator", "cpu")
    attempt = plan.folder / "attempts" / "first"
    attempt.mkdir(parents=True)
    (attempt / "plan.json").write_text(plan.to_json())
    words = [sys.executable, "-c", RANK, attempt / "plan.json", end]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT), attempt


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code", "waits"), [("1 / 0", 1, False), ("pass", 0, True), ("sys.exit(0)", 0, True)])
def test_a_rank_that_failed_waits_for_no_other(place: Place, end: str, code: int, waits: bool) -> None:
    done, attempt = be_rank(place, end)
    log = (attempt / "rank0.log").read_text()
    assert done.returncode == code, (done, log)
    assert ("waits for the others" in log) == waits
    assert (attempt / "rank0.error").exists() == (code != 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "waits", ["threading.Thread(target=time.sleep, args=(1000,)).start()", "atexit.register(time.sleep, 1000)"]
)
def test_a_rank_that_failed_ends_whatever_its_end_waits_for(place: Place, waits: str) -> None:
    done, attempt = be_rank(place, f"{waits}; 1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in (attempt / "rank0.error").read_text()
    assert "Timeout" in (attempt / "rank0.log").read_text()  # faulthandler's, with the stacks
