"""Where a run of another machine stands, whose locks can't be seen from here: told by how long it has been quiet."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nemo_workflow.run_dir.run import QUIET_SECONDS, RunFolder, State
from nemo_workflow.run_dir.stopping import tell_orphaned, tell_signal
from tests.run_dir.test_checkpoints import make
from tests.runs.fake_runs import append, end_event, make_plan, step_event, write_run


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


def test_a_run_stopped_before_its_first_step_is_said_to_be_as_on_the_screen(tmp_path: Path) -> None:
    """The screen: 'stopped before the first step: no checkpoint yet; …'."""
    plan = make_plan(tmp_path / "run")
    attempt = plan.folder / "attempts" / "20261127-120000"
    attempt.mkdir(parents=True)
    assert RunFolder(plan.folder).state == State("new", "no step was made")
    tell_signal(attempt, 2)
    said = "before the first step (Ctrl-C): no checkpoint yet; the same command starts again from the beginning"
    assert RunFolder(plan.folder).state == State("stopped", said)
