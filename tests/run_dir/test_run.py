"""Where a run of another machine stands, whose locks can't be seen from here: told by how long it has been quiet."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nemo_workflow.run_dir.run import QUIET_SECONDS, RunFolder
from tests.runs.fake_runs import append, make_plan, step_event


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
