"""A job's number alone says little: numbers come again, and sites wrap Slurm's commands. On real daemons."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from nemo_workflow.launch.slurm import cluster
from nemo_workflow.launch.slurm.cluster import ANOTHERS, UNKNOWN, Answer, Cluster, JobState, state_of
from nemo_workflow.run_dir import slurm_jobs
from nemo_workflow.run_dir.slurm_jobs import Job
from nemo_workflow.utils.errors import Failure

SUBMITTED = 1767323045
ATTEMPT = "20260102-030405"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    attempt = tmp_path / "one" / "attempts" / ATTEMPT
    attempt.mkdir(parents=True)
    return Job(attempt, "12", "x", None, SUBMITTED, name="one.train", uid=1000, cluster="ci")


OURS = JobState(
    "RUNNING",
    job_name="one.train",
    uid=1000,
    submitted=SUBMITTED,
    output=f"/elsewhere/one/attempts/{ATTEMPT}/sbatch.out",
)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({}, "RUNNING"),
        ({"submitted": SUBMITTED + 9000, "restarts": 1}, "RUNNING"),
        ({"name": "COMPLETED", "job_name": "allocation", "output": "", "cluster": "ci"}, "COMPLETED"),
        ({"job_name": "another"}, ANOTHERS),
        ({"uid": 1001}, ANOTHERS),
        ({"submitted": SUBMITTED + 9000}, ANOTHERS),
        ({"submitted": SUBMITTED - 9000, "restarts": 1}, ANOTHERS),
        ({"output": "/elsewhere/one/attempts/20260102-030406/sbatch.out"}, ANOTHERS),
        ({"output": "", "cluster": "other"}, ANOTHERS),
    ],
)
def test_what_tells_a_job_from_another_of_its_number(
    found: dict[str, object], name: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock: a second cluster, a second user and years between two jobs."""
    monkeypatch.setattr(cluster, "cluster_name", lambda host: "ci")
    monkeypatch.setattr(Cluster, "job", lambda self, job_id: dataclasses.replace(OURS, **found))
    state = state_of(job)
    assert state is not None
    assert state.name == name


def test_a_job_of_a_cluster_that_cannot_be_asked_from_here(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: a second cluster. Its job is not taken for this one's, nor for over; no order is sent to this one."""
    asked: list[tuple[str, ...]] = []

    def ask(self: Cluster, *words: str, **_: object) -> Answer:
        asked.append(words)
        return Answer(1, "", "scontrol: error: No cluster 'ci' known by database.\n")

    monkeypatch.setattr(cluster, "cluster_name", lambda host: "other")
    monkeypatch.setattr(Cluster, "ask", ask)
    state = state_of(job)
    assert state is not None
    assert (state.name, state.reason) == (UNKNOWN, "it was submitted to cluster ci, and this is cluster other")
    with pytest.raises(Failure, match="nothing was cancelled"):
        cluster.cancel(job)
    assert all("-M" in words for words in asked)
    (job.attempt / "exit-0").write_text("0\n")
    assert state_of(job) is None


def test_an_old_record_is_completed_from_its_folder(job: Job) -> None:
    values = {"job_id": "12", "experiment_id": "x", "host": None, "submitted": 1.0, "link": 1, "chain": 1}
    (job.attempt / slurm_jobs.FILE).write_text(json.dumps(values))
    (read,) = slurm_jobs.jobs_of(job.attempt.parent.parent)
    assert (read.name, read.uid, read.cluster) == ("one.train", os.geteuid(), "")
