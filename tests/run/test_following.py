"""The launcher's loop: when a run counts as hung, and that no error leaves a training unsupervised."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow import events, launch, watch


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A start whose ranks can't be ended: it would take pytest's own processes for them."""
    attempt = tmp_path / "attempts" / "1"
    attempt.mkdir(parents=True)
    plan = SimpleNamespace(folder=tmp_path, settings={"timeout_minutes": 30}, accelerator="cpu")
    monkeypatch.setattr(launch._Local, "_ranks", lambda self: [])
    monkeypatch.setattr(launch._Local, "_leave_nothing_running", lambda self: None)
    monkeypatch.setattr(launch, "STACK_SECONDS", 0)
    return launch._Local(plan, attempt, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("hours", [-2, 2], ids=["clock put forward, or a sleep", "clock put back"])
def test_a_clock_that_is_set_is_no_hang(local: Any, hours: int) -> None:
    for path in (local.attempt / watch.HEARTBEAT, local.plan.folder / events.FILE, local.attempt):
        path.touch()
        os.utime(path, (time.time() + 3600 * hours,) * 2)
    local._stop_if_hung()
    assert not local.hung


def test_no_step_for_too_long_is_a_hang(local: Any) -> None:
    local.plan.settings["timeout_minutes"] = 0.5 / 60
    local._stop_if_hung()
    os.utime(local.attempt, (time.time() + 3600,) * 2)  # of before the clock was put back
    for second in range(4):
        time.sleep(0.25)
        (local.attempt / watch.HEARTBEAT).touch()
        local._stop_if_hung()
        assert not local.hung, second
    time.sleep(0.6)
    local._stop_if_hung()
    assert "no step for" in local.hung
