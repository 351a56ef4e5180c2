"""Real NeMo training on real Slurm daemons, on CPU ranks."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nemo_workflow.launch.slurm.cluster import Cluster
from nemo_workflow.launch.slurm.follow import explain
from tests.e2e.slurm.conftest import SMALL, Boxed, Runs, history, losses, slow_steps, wait_for
from tests.e2e.slurm.daemons import Daemons, no_memory_limits
from tests.e2e.slurm.test_cluster import preempt, secrets_in
from tests.waiting import LIMIT

pytestmark = [pytest.mark.slurm, pytest.mark.thorough]


def at_step(runs: Runs, name: str, step: int) -> None:
    wait_for(lambda: any(e["event"] == "step" and e["step"] >= step for e in history(runs, name)))


TWO_NODES = (
    "-N", "2", "-G", "1", "--max-steps", "45", "--save-every", "45", "--val-check-interval", "45", *SMALL,
)  # fmt: skip


class Trained:
    """Two runs that are followed in the background: TP=2 on one node and in Apptainer's stand-in, and DP=2 on two nodes without a stop."""

    def __init__(self, runs: Runs, boxed: Boxed):
        self.runs = runs
        flags = ("-G", "2", "-TP", "2", "--max-steps", "10", *SMALL, *slow_steps(runs))
        # the ranks run in no container, for Apptainer can't be had here: its stand-in passes words, variables and signals on
        box = (*boxed.flags, "--wait")
        self._tp2 = runs.start("tp2", *flags, *box, HF_TOKEN="hf_secretOfTheTest", **boxed.variables)
        self._whole = runs.start("whole", *TWO_NODES, *slow_steps(runs), "--wait")

    def tp2(self) -> str:
        return self._end(self._tp2)

    def whole(self) -> str:
        return self._end(self._whole)

    def _end(self, process: subprocess.Popen[str]) -> str:
        out, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, out
        return out

    def stop(self) -> None:
        for process in (self._tp2, self._whole):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def trained(
    slurm: Daemons, corpus: Path, tmp_path_factory: pytest.TempPathFactory, boxed: Boxed, limited: Any, out_of_time: Any
) -> Iterator[Trained]:
    made = Trained(Runs(corpus, tmp_path_factory.mktemp("trained")), boxed)
    yield made
    made.stop()


# more than a minute: two real ranks that start through Slurm
def test_one_node_two_tasks(slurm: Daemons, trained: Trained, boxed: Boxed) -> None:
    """TP=2, followed to its end; the token reaches the ranks and no file."""
    runs = trained.runs
    found = wait_for(lambda: _environments(runs, "tp2"))
    assert found[0]["HF_TOKEN"] == "hf_secretOfTheTest"
    out = trained.tp2()
    assert "step 10/10" in out
    (job,) = runs.jobs("tp2")
    assert f"job {job.job_id}, experiment {job.experiment_id}" in out
    assert secrets_in(runs.out / "tp2") == []
    started = [line for line in boxed.log.read_text().splitlines() if line.startswith("exec") and "/tp2/" in line]
    assert len(started) == 2 and all(f"--bind {runs.out}:{runs.out}" in line for line in started)
    assert "hf_secretOfTheTest" not in boxed.log.read_text()
    words = ("sacct", "-X", "-n", "-P", "-j", job.job_id, "-o", "State,ExitCode")
    wait_for(lambda: slurm.run(*words).strip() == "COMPLETED|0:0")  # accounting hears of it a little later


def _environments(runs: Runs, name: str) -> list[dict[str, str]]:
    """The environment of every rank of a run that lives."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word.endswith("/rank.py") and f"/{name}/" in word for word in process.cmdline()):
                found.append(process.environ())
    return found


# more than a minute: jobs of two real ranks, one after the other
def test_two_nodes_stopped_and_continued(slurm: Daemons, trained: Trained) -> None:
    """DP=2 over two nodes: cancelled, started again as another job, preempted by a third, requeued: the same losses."""
    runs = trained.runs
    assert runs.pretrain("parts", *TWO_NODES, *slow_steps(runs)).returncode == 0
    at_step(runs, "parts", 3)
    done = runs.control("cancel", "parts")
    assert done.returncode == 0, done
    assert "is saved" in done.stdout
    done = runs.control("resubmit", "parts", "-P", "low", "--requeue", "1")
    assert done.returncode == 0, done
    first, second = runs.jobs("parts")
    assert first.job_id != second.job_id
    saved = max(losses(runs, "parts"))
    at_step(runs, "parts", saved + 3)
    other = preempt(slurm)
    done = runs.control("logs", "-f", "parts")
    assert "finished after step 45" in done.stdout
    assert second.restarts == 1
    assert second.exit_code(1) == 0
    state = Cluster().job(other)
    assert state is not None
    assert state.name == "COMPLETED"
    starts = [event["step"] for event in history(runs, "parts") if event["event"] == "start"]
    assert len(starts) == 3
    assert starts[0] == 0 < starts[1] < starts[2] < 45
    trained.whole()
    assert losses(runs, "parts") == losses(runs, "whole")


def test_a_time_limit_without_a_warning_is_told(out_of_time: Runs) -> None:
    """Slurm's SIGTERM at the limit is time enough for a small run to save; one that does not is killed."""
    said = {}
    for name in ("late", "deaf"):
        (job,) = out_of_time.jobs(name)
        wait_for(lambda: (state := Cluster().job(job.job_id)) and state.ended)  # noqa: B023 - called here
        said[name] = out_of_time.control("status", name).stdout
    assert "TIMEOUT" in said["late"] and "TIMEOUT" in said["deaf"]
    assert "stopped at its time limit, and saved" in said["late"]
    assert "the time limit came before the run could save" in said["deaf"]


def test_a_lost_node_is_told(slurm: Daemons, runs: Runs) -> None:
    (job,) = runs.stand_in(slurm, "lost", "-P", "lossy", "--max-steps", "5000")
    wait_for(lambda: any(event["event"] == "step" for event in history(runs, "lost")))
    slurm.lose_node(3)
    try:
        wait_for(lambda: (state := Cluster().job(job.job_id)) and state.ended)
    finally:
        slurm.start_node(3)
    assert "NODE_FAIL" in (told := runs.control("status", "lost").stdout)
    assert "a node was lost" in told


@pytest.mark.skipif(no_memory_limits() is not None, reason=str(no_memory_limits()))
def test_memory_that_was_not_enough_is_told(slurm: Daemons, runs: Runs) -> None:
    """The kernel ends a rank; of the job Slurm only says FAILED."""
    (job,) = runs.stand_in(slurm, "hungry", "-P", "lossy", "--mem", "400M", "--max-steps", "5000", eat_at=3)
    wait_for(lambda: (state := Cluster().job(job.job_id)) and state.ended)
    told = runs.control("status", "hungry").stdout
    assert "FAILED" in told and "the nodes' memory was not enough" in told
    assert runs.control("report", "hungry").returncode == 0
    assert "memory was not enough" in (runs.out / "hungry" / "report.html").read_text()
    assert "the nodes' memory was not enough; raise --mem" in explain(
        job, Cluster().job(job.job_id), 0, "step 2 is saved"
    )


def test_time_limit_and_lost_node(slurm: Daemons, limited: tuple[Runs, subprocess.Popen[str]]) -> None:
    """Slurm's own signal before the limit: saved and gone on from that step; what a lost node took is trained again."""
    runs, process = limited
    out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 143, out
    assert "restart 1" in out
    assert "restart 2" in out
    assert "the same command continues from there" in out
    (job,) = runs.jobs("limit")
    starts = [event["step"] for event in history(runs, "limit") if event["event"] == "start"]
    stops = [event["step"] for event in history(runs, "limit") if event["event"] == "stopping"]
    assert starts == [0, stops[0], stops[0]]
    assert 0 < stops[0] < stops[1]
    assert [job.exit_code(restart) for restart in range(3)] == [75, None, 75]
    lost, again = _legs(history(runs, "limit"))[1:]
    assert lost.keys() & again.keys()
    assert all(again[step] == lost[step] for step in lost.keys() & again.keys())
    state = Cluster().job(job.job_id)
    assert state is not None
    assert (state.name, job.restarts) == ("FAILED", 2)


def _legs(happened: list[dict[str, Any]]) -> list[dict[int, tuple[float, float]]]:
    """Loss and gradient norm by step, of each start."""
    legs: list[dict[int, tuple[float, float]]] = []
    for event in happened:
        if event["event"] == "start":
            legs.append({})
        elif event["event"] == "step":
            legs[-1][event["step"]] = (event["loss"], event["grad_norm"])
    return legs


def test_a_rank_that_was_killed_is_named(slurm: Daemons, runs: Runs) -> None:
    """It leaves no error of its own; the rank that lost it does, and srun says the rest."""
    done = runs.pretrain("killed", "--wait", *TWO_NODES, *slow_steps(runs, 'export FAULT="step 4 1 kill"\n'))
    assert done.returncode == 1
    (job,) = runs.jobs("killed")
    said = f"so rank 0 lost it; logs: {job.attempt}\n"
    assert "\nrank 1 on n2 was ended: Killed\n" in done.stderr and done.stderr.endswith(said), done.stderr
    assert "exit code 137: rank 1 on n2 was ended: Killed\n" in runs.control("status", "killed").stdout
