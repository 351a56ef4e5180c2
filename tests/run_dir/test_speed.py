"""Planned against seen: said after twenty steps, kept by `runs show`, and learned from by --calibrate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_workflow.config import calibration
from nemo_workflow.run_dir import speed
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.run_dir.speed import SpeedCheck
from nemo_workflow.runs import overview
from nemo_workflow.runs.calibrate import calibrate
from nemo_workflow.utils import machine
from nemo_workflow.utils.errors import Refusal
from tests.runs import fake_runs

TIME = {"gpu": "h200", "measured": True, "scale": 1.0, "step_seconds": 0.4, "tokens_per_second": 10_240.0}


def test_it_is_said_once_after_twenty_steps_without_the_warm_up() -> None:
    check = SpeedCheck(1000.0)
    said = [check.after_step(rate) for rate in [10.0] * speed.WARM_UP + [900.0] * 40]
    told = [note for note in said if note]
    assert said.index(told[0]) == speed.STEPS - 1 and len(told) == 1
    assert told[0]["text"] == "planned 1k tokens/s, seen 900: 10% slower than planned"
    assert (told[0][speed.PLANNED], told[0][speed.SEEN]) == (1000.0, 900.0)
    assert SpeedCheck(None).after_step(5.0) is None  # nothing was planned
    assert "as planned" in speed.in_words(1000, 1003) and "20% faster" in speed.in_words(1000, 1200)


def a_run(folder: Path, seconds: float = 0.5, steps: int = 30, starts: int = 1) -> None:
    """A run whose steps took `seconds`; 4,096 tokens each."""
    plan = replace(fake_runs.make_plan(folder), time=dict(TIME))
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    for _ in range(starts):
        fake_runs.append(plan, [{"event": "start", "time": fake_runs.BEGAN, "step": 0, "max_steps": 100}])
        fake_runs.append(plan, [fake_runs.step_event(plan, n, 1.0 * n, 2.0, seconds) for n in range(1, steps + 1)])


def test_runs_show_keeps_both(tmp_path: Path) -> None:
    a_run(tmp_path / "one")
    run = RunFolder(tmp_path / "one")
    assert overview._speed(run) == [("speed", "planned 10.2k tokens/s")]
    with (tmp_path / "one" / "metrics.jsonl").open("a") as stream:
        note = {"event": "note", "time": 1.0, "text": "planned so and seen so", speed.PLANNED: 1.0, speed.SEEN: 2.0}
        stream.write(json.dumps(note) + "\n")
    assert overview._speed(RunFolder(tmp_path / "one")) == [("speed", "planned so and seen so")]


def test_a_run_scales_the_plans_after_it(tmp_path: Path) -> None:
    a_run(tmp_path / "one", starts=2)
    said = calibrate(str(tmp_path), "one")
    assert "20% slower than planned" in said and "h200 are scaled by 1.25" in said
    scale, source = calibration.scale_of(str(tmp_path), "h200", fp8=False)
    assert (scale, source) == (1.25, str(tmp_path / "calibration.json"))
    assert calibration.scale_of(str(tmp_path), "h200", fp8=True) == (1.0, None)  # another precision, another GPU
    assert calibration.scale_of(str(tmp_path), "h100", fp8=False) == (1.0, None)
    calibration.keep(str(tmp_path), "h100", True, 2.0, {})
    assert calibration.scale_of(str(tmp_path), "h200", fp8=False)[0] == 1.25


def test_runs_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    a_run(tmp_path / "short", steps=3)
    with pytest.raises(Refusal, match="--calibrate short: has made 3 steps since its last start"):
        calibrate(str(tmp_path), "short")
    plan = replace(fake_runs.make_plan(tmp_path / "old"), time=None)
    fake_runs.append(plan, [])
    (tmp_path / "old").mkdir(exist_ok=True)
    (tmp_path / "old" / "plan.json").write_text(plan.to_json())
    with pytest.raises(Refusal, match="its plan holds no time"):
        calibrate(str(tmp_path), "old")
    with pytest.raises(Refusal):
        calibrate(str(tmp_path), "none")


def test_rates_are_rounded_to_a_decimal() -> None:
    check = SpeedCheck(1000.26)
    (note,) = [note for note in (check.after_step(900.06) for _ in range(speed.STEPS)) if note]
    assert (note[speed.PLANNED], note[speed.SEEN]) == (1000.3, 900.1)


def test_a_start_that_is_all_warm_up_has_a_speed() -> None:
    assert speed.settled([7.0, 9.0]) == 8.0
    assert speed.settled([1.0] * speed.WARM_UP + [5.0, 6.0]) == 5.5


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (1004.9, "as planned"), (995.1, "as planned"), (1005.1, "1% faster than planned"),
        (994.9, "1% slower than planned"), (500.0, "50% slower than planned"),
    ],
)  # fmt: skip
def test_half_a_percent_is_as_planned(seen: float, verdict: str) -> None:
    assert speed.in_words(1000, seen).partition(": ")[2] == verdict


@pytest.mark.parametrize(("rate", "load", "said"), [(500.0, 9.0, True), (500.0, 1.0, False), (990.0, 9.0, False)])
def test_a_slow_run_on_a_shared_cpu_says_why(
    rate: float, load: float, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock of the load: a test can't make one that the average of a minute shows."""
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    check = SpeedCheck(1000.0, lambda: machine.shared_cpu(1))
    (note,) = [note for note in (check.after_step(rate) for _ in range(speed.STEPS)) if note]
    assert note["text"].endswith("; other processes share the CPU (load 9 on 2 cores)") == said
    assert machine.shared_cpu(8) == ""  # our own eight ranks are as many
