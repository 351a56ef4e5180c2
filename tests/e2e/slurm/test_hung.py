"""A rank that hangs in a Slurm job on two nodes, on real daemons: found, shown, ended, and brought back by --requeue."""

from __future__ import annotations

import contextlib

import psutil
import pytest

from nemo_workflow.launch.slurm.cluster import Cluster
from nemo_workflow.run_dir import metrics
from nemo_workflow.utils.errors import HUNG
from tests.e2e.slurm.conftest import Runs, wait_for
from tests.e2e.slurm.daemons import Daemons

pytestmark = [pytest.mark.slurm, pytest.mark.thorough]
FLAGS = ("-N", "2", "--max-steps", "150", "--timeout-minutes", "0.5")  # a start under load takes some seconds


def step_of(runs: Runs, name: str) -> int:
    return max(
        (event["step"] for event in metrics.read(runs.out / name / metrics.FILE) if event["event"] == "step"), default=0
    )


def stop_rank(runs: Runs, name: str, number: int) -> None:
    """SIGSTOP for a rank, not for the watcher that it has forked."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, IndexError):
            words = process.cmdline()
            ours = words[1].startswith(f"{runs.out}/{name}/") and words[1].endswith("/rank.py")
            if ours and process.environ().get("SLURM_PROCID") == str(number):
                found[process.pid] = process
    (rank,) = [process for process in found.values() if process.ppid() not in found]
    rank.suspend()


def test_a_stopped_rank_of_any_node_is_found(slurm: Daemons, runs: Runs, corpus: object, tmp_path: object) -> None:
    """Of the second node, with --requeue; and rank 0 itself, without."""
    runs.how.write_text("{}")
    (second,) = runs.stand_in(slurm, "second", *FLAGS, "--requeue", "1", save_at=4)
    wait_for(lambda: step_of(runs, "second") > 6)
    stop_rank(runs, "second", 1)
    (first,) = runs.stand_in(slurm, "first", *FLAGS, "-P", "low")
    wait_for(lambda: step_of(runs, "first") > 6)
    stop_rank(runs, "first", 0)

    wait_for(lambda: second.exit_code(1) is not None)
    assert (second.exit_code(0), second.exit_code(1)) == (HUNG, 0)
    starts = [event["step"] for event in metrics.read(runs.out / "second" / metrics.FILE) if event["event"] == "start"]
    assert starts[0] == 0
    assert starts[1] >= 4  # a rank of the stand-in, which no collective holds, may save when srun ends it
    said = (second.attempt / "hung-0").read_text()
    assert "no step for 0.5 min; rank 1 on n2 was stopped (SIGSTOP)\n" in said
    assert said.count("no step for 0.5 min") == 2  # each node's watcher
    log = second.logs()[0].read_text(errors="replace")
    assert log.count("most recent call first") == 2  # each rank's stack

    wait_for(lambda: (state := Cluster().job(first.job_id)) and state.ended)
    assert first.exit_code(0) == HUNG
    assert "rank 0 on n5 was stopped (SIGSTOP)" in (first.attempt / "hung-0").read_text()
    status = runs.control("status", "first").stdout
    assert "no step for 0.5 min" in status
    assert not [p for p in psutil.process_iter(["cmdline"]) if f"{runs.out}/" in " ".join(p.info["cmdline"] or [])]
