"""The verdict on a job that has ended, told from what Slurm says and what the job script left."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.monitor import Monitor
from nemo_workflow.launch.slurm import follow
from nemo_workflow.launch.slurm.cluster import JobState
from nemo_workflow.run_dir.slurm_jobs import Job
from nemo_workflow.utils.errors import Failure
from tests.launch.slurm import plans


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return dataclasses.replace(plans.plan("cpu"), run_dir=str(tmp_path))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    attempt = tmp_path / "attempts" / plans.ATTEMPT
    attempt.mkdir(parents=True)
    return Job(attempt=attempt, job_id="1", experiment_id="x", host=None, submitted=0.0)


@pytest.fixture
def monitor(plan: Plan) -> Iterator[Monitor]:
    made = Monitor(plan)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "left", "code"),
    [
        (JobState("COMPLETED"), "0", 0),
        (JobState("COMPLETED"), "75", 143),
        (JobState("FAILED", exit_code=75), "75", 143),
    ],
)
def test_an_exit_code_that_is_seen_late_counts(
    state: JobState, left: str, code: int, job: Job, monitor: Monitor
) -> None:
    late = threading.Timer(1.0, (job.attempt / "exit-0").write_text, [f"{left}\n"])
    late.start()
    assert follow.verdict(job, state, monitor, str) == code
    late.join()


def test_a_failed_job_is_told_at_once_and_none_is_waited_for_without_end(
    job: Job, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "UNSEEN_SECONDS", math.inf)
    with pytest.raises(Failure, match="job 1 FAILED"):
        follow.verdict(job, JobState("FAILED", exit_code=1), monitor, str)
    monkeypatch.setattr(follow, "UNSEEN_SECONDS", 1.0)
    with pytest.raises(Failure, match="job 1 COMPLETED"):
        follow.verdict(job, JobState("COMPLETED"), monitor, str)
