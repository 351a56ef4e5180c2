"""Why a job ended, told from Slurm's words and from what was left; Slurm is stood in for."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from nemo_workflow.launch.slurm import ending
from nemo_workflow.launch.slurm.cluster import Answer, Cluster, JobState
from nemo_workflow.run_dir import metrics, slurm_jobs
from nemo_workflow.run_dir.slurm_jobs import Job
from tests.launch.slurm import plans


@pytest.fixture
def job(tmp_path: Path) -> Job:
    attempt = tmp_path / "attempts" / plans.ATTEMPT
    attempt.mkdir(parents=True)
    return Job(attempt=attempt, job_id="1", experiment_id="x", host=None, submitted=0.0)


@pytest.mark.parametrize(
    ("state", "left", "why"),
    [
        (JobState("RUNNING"), {}, ""),
        (JobState("COMPLETED"), {"exit-0": "0"}, ""),
        (JobState("TIMEOUT"), {}, "the time limit came before the run could save"),
        (JobState("TIMEOUT"), {"exit-0": "75"}, "stopped at its time limit, and saved"),
        (JobState("TIMEOUT"), {"exit-0": "1"}, "the time limit came before the run could save"),
        (JobState("DEADLINE"), {"exit-0": "75"}, "stopped at its deadline, and saved"),
        (JobState("PREEMPTED"), {}, "preempted: another job took the nodes"),
        (JobState("NODE_FAIL"), {}, "a node was lost"),
        (JobState("OUT_OF_MEMORY"), {"exit-0": "1"}, "the nodes' memory was not enough"),
        (JobState("CANCELLED", by=0), {}, "cancelled by root"),
        (JobState("CANCELLED", by=2_000_000_017), {}, "cancelled by uid 2000000017"),
        (JobState("CANCELLED"), {}, "cancelled"),
        (JobState("FAILED"), {"exit-0": "75", "cancelled": "alice"}, "cancelled by alice with `runs cancel`"),
        (JobState("FAILED"), {"exit-0": "75"}, ""),
        (JobState("FAILED"), {"exit-0": "75", "slurm-0": "JobId=1 PreemptTime=None"}, ""),
        (JobState("FAILED"), {"exit-0": "75", "slurm-0": "JobId=1 PreemptTime=2026-01-02T03:04:05"}, "preempted: another job took the nodes"),
        (JobState("FAILED"), {"exit-0": "124", "hung-0": "no step for 30 min\nno step for 30 min; rank 1 on n2 was stopped (SIGSTOP)\n"},
         "no step for 30 min; rank 1 on n2 was stopped (SIGSTOP)"),
        (JobState("FAILED"), {"exit-0": "1", "rank3.error": "9.0\nTraceback\nValueError: x\n", "rank1.error": "8.0\nOSError: y\n"},
         "rank 1 failed: OSError: y"),
        (None, {"exit-0": "1", "rank3.error": "9.0\nTraceback\nValueError: x\n"}, "rank 3 failed: ValueError: x"),
    ],
)  # fmt: skip
def test_the_end_in_words(
    state: JobState | None, left: dict[str, str], why: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "ask", lambda self, *words, **_: Answer(0, "1|FAILED\n1.0|FAILED\n", ""))
    for name, text in left.items():
        (job.attempt / name).write_text(text)
    assert ending.why_ended(job, state) == why
    if state and state.ended and why:  # kept, when Slurm has forgotten it
        assert ending.why_ended(job, None) == why


def test_who_cancelled_a_job_is_told_when_accounting_knows(job: Job) -> None:
    """It hears of an end later than the controller, and was asked too early; then it forgets."""
    assert ending.why_ended(job, JobState("CANCELLED")) == "cancelled"
    for state in (JobState("CANCELLED", by=0), JobState("CANCELLED"), None):
        assert ending.why_ended(job, state) == "cancelled by root"


def test_a_step_that_ran_out_of_memory_is_told_though_the_job_only_failed(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "Welcome | today\n1|FAILED\n1.batch|FAILED\n1.0|OUT_OF_MEMORY\n"
    monkeypatch.setattr(Cluster, "ask", lambda self, *words, **_: Answer(0, rows, ""))
    (job.attempt / "exit-0").write_text("1\n")
    assert ending.why_ended(job, JobState("FAILED")) == "the nodes' memory was not enough"


def test_a_rank_that_srun_saw_killed_is_the_cause_of_what_the_others_say(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script's log as Slurm 22.05 left it, with that of a start before it."""
    monkeypatch.setattr(Cluster, "ask", lambda self, *words, **_: Answer(0, "1|FAILED\n1.0|FAILED\n", ""))
    (job.attempt / "exit-0").write_text("137")
    (job.attempt / "rank0.error").write_text("8.0\nRuntimeError: Connection reset by peer\n")
    begins = "#!/bin/bash\n\nexport PYTHONUNBUFFERED=1\n+ export PYTHONUNBUFFERED=1\n"
    killed = "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: tasks 1,3: Killed\n"
    (log := job.attempt / "sbatch_x_1.out").write_text(begins + killed + begins)
    assert ending.why_ended(job, JobState("FAILED")) == "rank 0 failed: RuntimeError: Connection reset by peer"
    (job.attempt / "ended-0").unlink()
    log.write_text(begins + begins + killed)
    assert ending.why_ended(job, JobState("FAILED")) == "rank 1 on n2 was ended: Killed"
    (job.attempt / "ended-0").unlink()
    (job.attempt / "rank3.error").write_text("9.0\nValueError: x\n")  # an error of its own
    assert ending.why_ended(job, JobState("FAILED")) == "rank 3 failed: ValueError: x"


def test_a_stop_by_slurms_signal_is_the_time_limits(job: Job) -> None:
    event = {"event": "stopping", "step": 3, "signal": int(signal.SIGUSR1), "time": 1.0}
    (job.attempt.parent.parent / metrics.FILE).write_text(json.dumps(event) + "\n")
    (job.attempt / "exit-0").write_text("75\n")
    assert ending.why_ended(job, JobState("FAILED")) == "stopped before its time limit (--stop-before)"


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=12401.0. Some of your processes may have been killed by",
        "slurmstepd: error: Detected 2 oom_kill events in StepId=7.0. Some of the step tasks have been OOM Killed.",
        "slurmstepd-n1: error: StepId=14902.0 exceeded memory limit (266354688 > 209715200), being killed",
        "slurmstepd: error: Exceeded job memory limit",
    ],
)
def test_memory_that_was_not_enough_is_told_by_the_log(line: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of Slurm 22.05 and 24.11, with cgroups and with OverMemoryKill; of the latter accounting says `CANCELLED by 0`."""
    monkeypatch.setattr(Cluster, "ask", lambda self, *words, **_: Answer(0, "1|FAILED\n1.0|CANCELLED by 0\n", ""))
    (job.attempt / "exit-0").write_text("1")
    (job.attempt / "rank1.error").write_text("8.0\nConnection closed by peer\n")
    log = job.attempt / "log-x_1_0.out"
    log.write_text("srun: error: n1: task 0: Out Of Memory budget of the user's own\n")
    assert ending.why_ended(job, JobState("FAILED")) == "rank 1 failed: Connection closed by peer"
    (job.attempt / "ended-0").unlink()
    log.write_text(f"step 3\n{line}\nsrun: error\n")
    assert ending.why_ended(job, JobState("FAILED")) == (why := "the nodes' memory was not enough")
    assert ending.advice(why) == "raise --mem"


def test_a_restart_has_an_end_of_its_own(job: Job) -> None:
    assert ending.why_ended(job, JobState("TIMEOUT")) == "the time limit came before the run could save"
    (job.attempt / "begun-1").touch()
    assert ending.why_ended(job, JobState("RUNNING")) == ""
    slurm_jobs.cancelled_mark(job.attempt).write_text("alice")
    assert ending.why_ended(job, JobState("FAILED")) == "cancelled by alice with `runs cancel`"
