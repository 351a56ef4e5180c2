"""The verdict on a job that has ended, told from what Slurm says and what the job script left."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize(
    ("state", "reply", "said"),
    [
        ("PENDING", "c", "cancelling job 1: it waits in the queue, so there is nothing to save"),
        ("PENDING", "d", "job 1 stays in the queue; python -m nemo_workflow.runs shows, follows and cancels it"),
        ("RUNNING", "c", "cancelling job 1: the ranks are still starting, there is nothing to save"),
        ("TRAINING", "c", "cancelling job 1: the ranks finish their step and save"),
        ("RUNNING", "d", "job 1 keeps running; python -m nemo_workflow.runs shows, follows and cancels it"),
    ],
)
def test_ctrl_c_says_what_becomes_of_the_job_as_it_is(
    state: str, reply: str, said: str, job: Job, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm and the terminal are stand-ins: which state a job is in when Ctrl-C comes can't be had at will."""
    notes: list[str] = []
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return reply

    monitor.started = state == "TRAINING"
    monkeypatch.setattr(monitor, "note", notes.append)
    monkeypatch.setattr(follow, "state_of", lambda job: JobState("RUNNING" if state == "TRAINING" else state))
    monkeypatch.setattr(follow, "cancel", lambda job: None)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", answer)
    follower = follow.Follower(job, monitor, str)
    follower._poll()
    follower.asked = signal.SIGINT
    before = signal.getsignal(signal.SIGINT)
    try:
        assert follower._answer() == (None if reply == "c" else 130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert notes[-1] == said
    assert f"[d]etach and let it {'wait' if state == 'PENDING' else 'run'}, " in asked[0]


def test_a_job_that_is_cancelled_before_its_first_step_has_nothing_to_continue_from(
    plan: Plan, job: Job, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(monitor, "note", notes.append)
    assert follow.verdict(job, JobState("CANCELLED"), monitor, lambda: follow._saved(plan)) == 143
    again = "no checkpoint yet; the same command starts again from the beginning"
    assert notes[-1].startswith("job 1 is over (") and notes[-1].endswith(f"): {again}")
