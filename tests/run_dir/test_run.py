"""Where a run of another machine stands, whose locks can't be seen from here: told by how long it has been quiet."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_workflow.run_dir import slurm_jobs, starting, stopping
from nemo_workflow.run_dir.run import QUIET_SECONDS, RunFolder, State
from nemo_workflow.run_dir.stopping import tell_orphaned, tell_signal
from tests.run_dir.test_checkpoints import make
from tests.runs.fake_runs import append, end_event, make_plan, step_event, write_export, write_run


@pytest.mark.parametrize(
    ("quiet", "steps", "saves", "state"),
    [
        (QUIET_SECONDS / 2, True, False, "running"),
        (QUIET_SECONDS * 2, True, False, "killed"),
        (QUIET_SECONDS * 2, True, True, "running"),  # a large checkpoint on a slow disk
        (QUIET_SECONDS * 100, True, True, "killed"),  # its writer has died in it
        (QUIET_SECONDS / 2, False, False, "running"),  # before its first step
        (QUIET_SECONDS * 2, False, False, "killed"),
    ],
)
def test_a_quiet_run_of_another_machine(quiet: float, steps: bool, saves: bool, state: str, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    plan.folder.mkdir()
    when = time.time() - quiet
    append(plan, [{"event": "start", "time": when, "step": 0, "max_steps": 100, "machine": {"host": "elsewhere"}}])
    if steps:
        append(plan, [step_event(plan, 1, when, 2.0)])
    (plan.folder / "checkpoints").mkdir()
    if saves:
        (plan.folder / "checkpoints" / "step_00000001-unfinished").touch()  # NeMo's mark
    assert RunFolder(plan.folder).state.name == state


def test_a_rank_that_lost_another_is_not_the_cause_while_the_launcher_ends_the_run(tmp_path: Path) -> None:
    """Which then tells by what the other was ended."""
    plan = write_run(tmp_path / "run", upto=30, reason=None)
    attempt = max((plan.folder / "attempts").iterdir())
    error = "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:34018"
    (attempt / "rank0.error").write_text(f"{time.time()}\n{error}\n")
    held = RunFolder(plan.folder, lambda path: 1).state
    assert held == State("failed", "a rank was lost: its launcher is ending the others")
    starting.tell_failed(attempt, "rank 1 was ended by SIGKILL")
    assert RunFolder(plan.folder).state == State("failed", "rank 1 was ended by SIGKILL")


def test_a_start_that_has_failed_is_not_running_while_its_report_is_written(tmp_path: Path) -> None:
    """Its launcher, which holds the run, told why; one that began later is about to make another start."""
    plan = write_run(tmp_path / "run", upto=30, reason=None)
    attempt = max((plan.folder / "attempts").iterdir())
    starting.tell_failed(attempt, "torchrun was ended by SIGKILL; logs: x")
    os.utime(
        attempt / starting.FAILED, (time.time() - 5, time.time() - 5)
    )  # the kernel's times of processes are coarse
    assert RunFolder(plan.folder, lambda path: 1).state == State("failed", "torchrun was ended by SIGKILL")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as later:
        assert RunFolder(plan.folder, lambda path: later.pid).state == State("running")


def test_of_a_ranks_traceback_the_last_line_is_kept(tmp_path: Path) -> None:
    said = "rank 1:\nTraceback (most recent call last):\n  x\nValueError: no\n\nlog of rank 1: /x/rank1.log"
    starting.tell_failed(tmp_path, said)
    assert starting.failure_of(tmp_path) == "rank 1: ValueError: no"
    starting.tell_failed(tmp_path, "rank 0:\na gradient is NaN\nfix the data\nlog of rank 0: /x/rank0.log")
    assert starting.failure_of(tmp_path) == "rank 0: a gradient is NaN"


def test_the_starts_keep_what_was_told_of_their_ends(tmp_path: Path) -> None:
    """A later start doesn't make a kill one of which nothing is known."""
    plan = write_run(tmp_path / "run", upto=30, reason=None)
    first = max((plan.folder / "attempts").iterdir())
    starting.tell_launched(first)
    told = starting.launch_of(first)
    assert told is not None
    starting.tell_failed(first, "rank 1 was ended by SIGKILL")
    append(plan, [{"event": "start", "time": told.time + 1, "step": 20, "max_steps": 100}])
    second = first.with_name(f"{first.name}-later")
    second.mkdir()
    (second / starting.FILE).write_text(json.dumps({"time": told.time + 10, "host": platform.node()}))
    here = {"host": platform.node()}
    append(plan, [{"event": "start", "time": told.time + 11, "step": 30, "max_steps": 100, "machine": here}])
    tell_signal(second, signal.SIGINT)
    ends = [start["end"] for start in RunFolder(plan.folder).starts()]
    assert ends[-2:] == ["rank 1 was ended by SIGKILL", "ended after Ctrl-C"]


def test_a_rank_whose_launcher_went_too_is_not_a_failed_save(tmp_path: Path) -> None:
    plan = write_run(tmp_path / "run", upto=30, reason=None)
    attempt = max((plan.folder / "attempts").iterdir())
    error = "SaveFailed: checkpoint step_00000080 could not be saved: [gloo/pair.cc:553] Connection closed by peer"
    (attempt / "rank1.error").write_text(f"{time.time()}\n{error}\n")
    state = RunFolder(plan.folder).state
    assert state.name == "killed" and state.why.startswith("a rank or its launcher was ended: ")


def test_a_run_whose_launcher_was_killed_has_one_state_while_its_ranks_save_and_one_after(tmp_path: Path) -> None:
    plan = write_run(tmp_path / "run", upto=30, reason=None)
    ranks: list[int | None] = [1]

    def state() -> State:
        return RunFolder(plan.folder, lambda path: None, lambda path: ranks[0]).state

    assert state() == State("running", "its launcher was killed: its ranks save and stop")
    tell_orphaned(max((plan.folder / "attempts").iterdir()))
    append(plan, [{"event": "stopping", "time": time.time(), "step": 30, "signal": 15}])
    make(plan.folder / "checkpoints", 30)
    assert state().name == "running"
    append(plan, [end_event(30, time.time(), "stopped")])
    over = State("stopped", "its launcher was killed: step 30 is saved; the same command continues from there")
    assert state() == over  # the ranks leave
    ranks[0] = None
    assert state() == over == RunFolder(plan.folder).state


def test_a_killed_run_says_what_is_saved(tmp_path: Path) -> None:
    plan = write_run(tmp_path / "run", upto=30, reason=None)
    make(plan.folder / "checkpoints", 30)
    tell_signal(max((plan.folder / "attempts").iterdir()), 2)
    said = "ended after Ctrl-C: step 30 is saved; the same command continues from there"
    assert RunFolder(plan.folder).state == State("killed", said)
    starting.tell_failed(max((plan.folder / "attempts").iterdir()), "rank 0 was ended by SIGKILL, after step 30")
    assert RunFolder(plan.folder).state == State("failed", "rank 0 was ended by SIGKILL, after step 30")
    attempt = max((plan.folder / "attempts").iterdir())
    (attempt / "rank1.error").write_text("1.0\nRuntimeError: Connection closed by peer\n")  # of the rank that lost it
    starting.tell_failed(attempt, "rank 0 was ended by SIGKILL; its log: x")
    assert RunFolder(plan.folder).state == State("failed", "rank 0 was ended by SIGKILL")


def test_a_run_stopped_before_its_first_step_is_said_to_be_as_on_the_screen(tmp_path: Path) -> None:
    """The screen: 'stopped before the first step: no checkpoint yet; …'."""
    plan = make_plan(tmp_path / "run")
    attempt = plan.folder / "attempts" / "20261127-120000"
    attempt.mkdir(parents=True)
    tell_signal(attempt, 2)
    said = "before the first step (Ctrl-C): no checkpoint yet; the same command starts again from the beginning"
    assert RunFolder(plan.folder).state == State("stopped", said)


AGAIN = "no checkpoint yet; the same command starts again from the beginning"


def test_a_start_that_was_killed_before_its_ranks_trained_says_so_and_when(tmp_path: Path) -> None:
    """`kill -9` of all processes while the ranks import NeMo: no event, no signal, no error is left."""
    plan = make_plan(tmp_path / "run")
    assert RunFolder(plan.folder).state == State("new", "no step was made")
    attempt = plan.folder / "attempts" / "20261127-120000"
    attempt.mkdir(parents=True)
    killed = State("killed", f"while its ranks were starting: {AGAIN}")
    run = RunFolder(plan.folder)  # of a version that wrote no time
    assert run.state == killed
    assert run.changed and time.strftime(starting.NAME, time.localtime(run.changed)) == attempt.name
    starting.tell_launched(attempt)
    run = RunFolder(plan.folder)
    assert run.state == killed and run.changed and abs(run.changed - time.time()) < 60
    assert RunFolder(plan.folder, lambda path: 1).state == State("running")
    starting.tell_failed(attempt, "the ranks did not start:\n3 lines\nlogs: x")
    assert RunFolder(plan.folder).state == State("failed", "the ranks did not start")


def test_a_later_start_that_was_killed_before_its_ranks_trained_is_not_the_earlier_ones_end(tmp_path: Path) -> None:
    plan = write_run(tmp_path / "run", upto=30, reason="stopped", began=time.time() - 300)
    make(plan.folder / "checkpoints", 30)
    assert RunFolder(plan.folder).state.why == "asked to"
    attempt = plan.folder / "attempts" / "29991231-000000"
    attempt.mkdir()
    starting.tell_launched(attempt)
    said = "step 30 is saved; the same command continues from there"
    assert RunFolder(plan.folder).state == State("killed", f"while its ranks were starting: {said}")
    tell_signal(attempt, 2)
    assert RunFolder(plan.folder).state == State("stopped", f"before the first step (Ctrl-C): {said}")
    here = {"host": platform.node()}
    append(plan, [{"event": "start", "time": time.time() + 1, "step": 30, "max_steps": 100, "machine": here}])
    os.utime(attempt / stopping.SIGNAL, (time.time() + 70,) * 2)  # a step of more than a minute
    run = RunFolder(plan.folder)
    assert run.state == State("stopped", f"in the middle of its first step (Ctrl-C): {said}")
    assert run.changed and run.changed > time.time() + 60
    append(plan, [{"event": "step", "time": time.time() + 2, "step": 31, "seconds": 1.0}])
    assert RunFolder(plan.folder).state.why.startswith("ended after Ctrl-C: step 30 is saved, step 31 is not;")


def test_a_later_start_that_was_stopped_as_it_read_its_checkpoint_is_not_the_earlier_ones_end(tmp_path: Path) -> None:
    """It has written events of its own then, and none of its start."""
    plan = write_run(tmp_path / "run", upto=30, reason="stopped", began=time.time() - 300)
    make(plan.folder / "checkpoints", 30)
    attempt = plan.folder / "attempts" / "29991231-000000"
    attempt.mkdir()
    starting.tell_launched(attempt)
    append(plan, [{"event": "note", "time": time.time() + 1, "text": "checkpoint step_00000030 read back"}])
    tell_signal(attempt, 2)
    said = "before the first step (Ctrl-C): step 30 is saved; the same command continues from there"
    assert RunFolder(plan.folder).state == State("stopped", said)
    told = RunFolder(plan.folder).never_trained()
    assert told and told[1] == "stopped before the first step (Ctrl-C)" and time.time() - told[0] < 60
    assert [start["end"] for start in RunFolder(plan.folder).starts()] == ["stopped"]


def test_an_export_after_the_training_that_is_under_way_or_was_lost(tmp_path: Path) -> None:
    plan = write_run(tmp_path / "run", upto=100, reason="finished", began=time.time() - 300)
    assert RunFolder(plan.folder).state == State("finished", "reached step 100")
    append(plan, [{"event": "export", "time": time.time() - 20, "step": 100, "problem": "stopped by Ctrl-C"}])
    assert RunFolder(plan.folder).state.why == "reached step 100; not exported: stopped by Ctrl-C"
    append(plan, [{"event": "exporting", "time": time.time() - 10, "step": 100}])
    held = RunFolder(plan.folder, lambda path: 1)
    assert held.state == State("finished", "reached step 100; its model is being exported")
    assert RunFolder(plan.folder).state.why == "reached step 100; not exported: ended from outside"
    (plan.folder / "hf_model").mkdir()
    assert RunFolder(plan.folder).state.why == "reached step 100; not exported: ended from outside"
    write_export(plan)
    assert RunFolder(plan.folder).state.why == "reached step 100"
    append(plan, [{"event": "export", "time": time.time(), "step": 100, "problem": None}])
    assert RunFolder(plan.folder).state.why == "reached step 100"


def test_a_start_on_another_machine_may_take_its_time(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    attempt = plan.folder / "attempts" / "20261127-120000"
    for age, state in ((60, "running"), (7200, "killed")):
        starting.write_json(attempt / starting.FILE, {"time": time.time() - age, "host": "elsewhere"})
        assert RunFolder(plan.folder).state.name == state


def test_a_job_that_waits_is_neither_killed_nor_lost(tmp_path: Path) -> None:
    """Slurm isn't asked here: what its script has left is all that is known."""
    plan = make_plan(tmp_path / "run")
    attempt = plan.folder / "attempts" / "20261127-120000"
    starting.tell_launched(attempt)
    slurm_jobs.record(slurm_jobs.Job(attempt, "7", "x", None, time.time()))
    waits = State("new", "Slurm job 7 was submitted; no step was made")
    assert RunFolder(plan.folder).state == waits
    (attempt.parent / f"{attempt.name}-restart1").mkdir()
    assert RunFolder(plan.folder).state == waits
    (attempt / "exit-0").write_text("75")
    assert RunFolder(plan.folder).state == State("stopped", f"before the first step: {AGAIN}")
    (attempt / "exit-0").write_text("1")
    assert RunFolder(plan.folder).state == State("failed", "Slurm job 7 ended with exit code 1 before the first step")


def test_the_newest_start_is_the_one_that_was_launched_last(tmp_path: Path) -> None:
    """Not that of the latest name: a container's local time may be another than the machine's."""
    launches = {"20261025-024000": 100.0, "20261025-021000": 200.0, "20261025-003000": 300.0}
    for name, when in launches.items():
        (attempt := tmp_path / "attempts" / name).mkdir(parents=True)
        (attempt / starting.FILE).write_text(json.dumps({"time": when, "host": "n1"}))
    (tmp_path / "attempts" / "20261025-021000-restart1").mkdir()
    names = [path.name for path in RunFolder(tmp_path).attempts]
    assert names == ["20261025-024000", "20261025-021000", "20261025-021000-restart1", "20261025-003000"]
