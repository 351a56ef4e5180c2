"""Real NeMo training on real Slurm daemons, on CPU ranks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nemo_workflow import events
from nemo_workflow.slurm.cluster import Cluster
from tests.slurm.conftest import Runs, wait_for
from tests.slurm.daemons import Daemons
from tests.slurm.test_cluster import secrets_in

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def history(runs: Runs, name: str) -> list[dict[str, Any]]:
    return events.read(runs.out / name / events.FILE)


def losses(runs: Runs, name: str) -> dict[int, tuple[float, float, int]]:
    """Loss, gradient norm and consumed samples by step, of the history that counts."""
    return {
        event["step"]: (event["loss"], event["grad_norm"], event["consumed_samples"])
        for event in events.effective(history(runs, name))
        if event["event"] == "step"
    }


def at_step(runs: Runs, name: str, step: int) -> None:
    wait_for(lambda: any(e["event"] == "step" and e["step"] >= step for e in history(runs, name)), 240)


@pytest.fixture(scope="module")
def limited(slurm: Daemons, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runs, Any]]:
    """A run that its time limit stops after about two minutes, in the background of the other tests.

    When it has come back by itself and taken some steps, it is cancelled.
    """
    runs = Runs(corpus, tmp_path_factory.mktemp("limited"))
    process = runs.start(
        "limit", "--wait", "--time", "3", "--stop-before", "30", "--requeue", "1", "--max-steps", "5000",
        "--save-every", "5000", "--val-check-interval", "5000",
    )  # fmt: skip
    watcher = threading.Thread(target=_cancel_when_back, args=(runs,), daemon=True)
    watcher.start()
    yield runs, process
    watcher.join(300)
    process.kill()
    process.communicate()


def _cancel_when_back(runs: Runs) -> None:
    def back() -> bool:
        starts = [event["step"] for event in history(runs, "limit") if event["event"] == "start"]
        return len(starts) > 1 and max(losses(runs, "limit"), default=0) >= starts[-1] + 2

    wait_for(back, 600)
    runs.control("cancel", "limit")


def test_one_node_two_tasks(slurm: Daemons, runs: Runs, limited: Any) -> None:
    """TP=2, followed to its end; the token reaches the ranks and no file."""
    process = runs.start("tp2", "-G", "2", "-TP", "2", "--wait", env=os.environ | {"HF_TOKEN": "hf_secretOfTheTest"})
    wait_for(lambda: "hf_secretOfTheTest" in [env.get("HF_TOKEN") for env in _environments(runs, "tp2")], 240)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "step 20/20" in out
    (job,) = runs.jobs("tp2")
    assert f"job {job.job_id}, experiment {job.experiment_id}" in out
    assert secrets_in(runs.out) == []
    assert slurm.run("sacct", "-X", "-n", "-P", "-j", job.job_id, "-o", "State,ExitCode").strip() == "COMPLETED|0:0"


def _environments(runs: Runs, name: str) -> list[dict[str, str]]:
    """The environment of every rank of a run that lives."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word.endswith("/rank.py") and f"/{name}/" in word for word in process.cmdline()):
                found.append(process.environ())
    return found


def test_two_nodes_stopped_and_continued(slurm: Daemons, runs: Runs, limited: Any) -> None:
    """DP=2 over two nodes: cancelled, started again as another job, told to stop, requeued: the same losses."""
    flags = ("-N", "2", "-G", "1", "--max-steps", "60", "--save-every", "30")
    whole = runs.start("whole", *flags, "--wait")
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, out
    assert runs.pretrain("parts", *flags).returncode == 0
    at_step(runs, "parts", 3)
    done = runs.control("cancel", "parts")
    assert done.returncode == 0, done
    assert "is saved" in done.stdout
    process = runs.start("parts", *flags, "--wait", "--requeue", "1")
    first, second = wait_for(lambda: (found := runs.jobs("parts")) and len(found) == 2 and found)
    assert first.job_id != second.job_id
    saved = max(losses(runs, "parts"))
    at_step(runs, "parts", saved + 3)
    slurm.run("scancel", "--signal=USR1", second.job_id)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    starts = [event["step"] for event in history(runs, "parts") if event["event"] == "start"]
    assert len(starts) == 3
    assert starts[0] == 0 < starts[1] < starts[2] < 60
    assert losses(runs, "parts") == losses(runs, "whole")


def test_time_limit_and_requeue(slurm: Daemons, limited: tuple[Runs, subprocess.Popen[str]]) -> None:
    """Slurm's own signal before the limit: saved, requeued, gone on from that step."""
    runs, process = limited
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 143, out
    assert "restart 1" in out
    assert "the same command continues from there" in out
    (job,) = runs.jobs("limit")
    starts = [event["step"] for event in history(runs, "limit") if event["event"] == "start"]
    stops = [event["step"] for event in history(runs, "limit") if event["event"] == "stopping"]
    assert starts == [0, stops[0]]
    assert 0 < stops[0] < stops[1]
    assert (job.exit_code(0), job.exit_code(1)) == (75, 75)
    state = Cluster().job(job.job_id)
    assert state is not None
    assert (state.name, job.restarts) == ("FAILED", 1)
