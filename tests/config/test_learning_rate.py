"""--lr-schedule, --decay-steps, --decay-style, --decay-from: the rates, the plan's lines and the refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.config.schedule import Schedule, rate_at
from nemo_workflow.launch import dry_run
from nemo_workflow.run_dir.branching import branch_of
from nemo_workflow.run_dir.config_yaml import config_text
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, leave_checkpoint


def schedule(kind: str, **more: Any) -> Schedule:
    return Schedule(100, 10, 0, 1e-3, 1e-4, 10, 10, 1, kind=kind, **more)


def test_rates_of_each_schedule() -> None:
    for kind in ("cosine", "linear", "constant", "wsd"):
        assert rate_at(schedule(kind, decay_steps=20, decay_style="linear"), 4) == pytest.approx(5e-3 / 11)
    assert rate_at(schedule("constant"), 99) == 1e-3
    assert rate_at(schedule("linear"), 55) == pytest.approx(5.5e-4)
    assert rate_at(schedule("cosine"), 55) == pytest.approx(5.5e-4)
    assert rate_at(schedule("cosine"), 40) == rate_at(Schedule(100, 10, 0, 1e-3, 1e-4, 10, 10, 1), 40)
    half = {"linear": 0.5, "cosine": 0.5, "minus_sqrt": 1 - 0.5**0.5, "exponential": 2 * 0.5**0.5 - 1}
    for style, left in half.items():
        planned = schedule("wsd", decay_steps=20, decay_style=style)
        assert rate_at(planned, 79) == rate_at(planned, 80) == pytest.approx(1e-3)
        assert rate_at(planned, 90) == pytest.approx(1e-4 + 9e-4 * left)
        assert rate_at(planned, 100) == pytest.approx(1e-4)


def test_the_plan_tells_and_draws_it(shared: Place) -> None:
    plan = shared.plan("--lr-schedule", "wsd", max_steps="100")
    assert (plan.schedule.decay_steps, plan.schedule.decay_style) == (10, "minus_sqrt")
    text = dry_run.render(plan, "text")
    assert "then constant, down to 0.0001 over the last 10 steps (minus_sqrt)  ▁" in text
    constant = dry_run.render(shared.plan("--lr-schedule", "constant", max_steps="100"), "text")
    assert (
        "0.001 after 10 steps of warm-up, then constant  ▁" in constant and constant.count("████████████████████") == 1
    )
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("kind", ["wsd", "constant", "linear", "cosine"])
def test_a_runs_own_config_gives_the_same_schedule(place: Place, kind: str) -> None:
    plan = place.plan("--lr-schedule", kind, max_steps="60")
    (place.root / "again.yaml").write_text(config_text(plan))
    assert make_plan(command_line.parse(["--config", str(place.root / "again.yaml")])).schedule == plan.schedule


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--decay-steps", "5"], "--decay-steps: only with --lr-schedule wsd"),
        (["--lr-schedule", "linear", "--decay-style", "cosine"], "--decay-style: only with --lr-schedule wsd"),
        (["--lr-schedule", "constant", "--min-lr", "1e-5"], "--min-lr: --lr-schedule constant never goes down"),
        (["--lr-schedule", "wsd", "--constant-steps", "5"], "--constant-steps: does nothing with --lr-schedule wsd"),
        (["--lr-schedule", "wsd", "--decay-steps", "99", "--max-steps", "100"], "lower it or raise --max-steps"),
    ],
)
def test_what_does_nothing_is_refused(shared: Place, flags: list[str], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        shared.plan(*flags)


def parent(place: Place, step: int, *flags: str) -> Path:
    """A checkpoint's folder as a run of these flags leaves it."""
    return leave_checkpoint(place.plan("--experiment", "parent", "--max-steps", "100", *flags), step)


def branch(place: Place, folder: Path, *flags: str) -> Plan:
    settings = command_line.parse(place.flags("--experiment", "branch", "--decay-from", str(folder), *flags))
    return make_plan(settings, branch=branch_of(settings))


def test_a_branch_decays_from_the_rate_that_its_checkpoint_had(place: Place) -> None:
    stable = branch(place, parent(place, 50, "--lr-schedule", "constant", "--lr", "2e-3"), "--decay-steps", "20")
    assert (stable.schedule.first_step, stable.schedule.max_steps, stable.schedule.steps) == (50, 70, 20)
    assert rate_at(stable.schedule, 50) == 2e-3 and rate_at(stable.schedule, 69) < 1e-3
    assert Plan.from_json(stable.to_json()) == stable
    text = dry_run.render(stable, "text")
    assert "starts from" in text and "parent/checkpoints/step_00000050, with its optimizer" in text
    assert "continues after step 50 of 70: 20 steps left" in text and "2e-03" not in text
    assert "learning rate 0.002 as after step 50, down to 0.0001 over the last 20 steps (minus_sqrt)  █" in text
    half_way = parent(place, 55, "--seed", "1")  # of a cosine run
    plan = branch(place, half_way, "--seed", "1")
    assert plan.schedule.lr == pytest.approx(5.5e-4) and plan.schedule.max_steps == 60  # a tenth of 55 steps


def test_a_branch_takes_the_config_of_the_run_it_leaves(place: Place) -> None:
    folder = parent(place, 50, "--lr-schedule", "constant")
    left = place.root / "config.yaml"
    left.write_text(
        config_text(place.plan("--experiment", "parent", "--max-steps", "100", "--lr-schedule", "constant"))
    )
    plan = branch(place, folder, "--config", str(left), "--decay-steps", "10")
    assert (
        plan.schedule.max_steps == 60 and "--max-steps 100: --decay-steps ends the branch after step 60" in plan.notes
    )
    left.write_text(config_text(plan))
    assert branch(place, folder, "--config", str(left)).schedule == plan.schedule


def test_a_branch_of_nothing_or_of_another_run_is_refused(place: Place) -> None:
    folder = parent(place, 50, "--lr-schedule", "constant")
    for flags, said in (
        (["--max-steps", "50"], "is at step 50"),
        (["--lr", "5e-3"], "the decay begins at the checkpoint's own rate, 0.001"),
        (["--warmup-steps", "3"], "warm-up of the checkpoint's run is over"),
        (["--lr-schedule", "linear"], "decays from its first step"),
        (["--experiment", "parent"], "give the branch another --experiment"),
    ):
        with pytest.raises(Refusal, match=said):
            branch(place, folder, *flags)
    with pytest.raises(Refusal, match="--allow-change seed"):
        dry_run.render(branch(place, folder, "--seed", "7"), "text")
    for other, said in (
        (folder.parent, "not a checkpoint's folder"),
        (folder.with_name("step_60"), "manifest.json is missing"),
    ):
        with pytest.raises(Refusal, match=said):
            branch(place, other)
    with pytest.raises(Refusal, match="still in its warm-up of 10 steps"):
        branch(place, parent(place, 5))


def test_a_branch_with_checkpoints_needs_its_parent_no_more(place: Place) -> None:
    folder = parent(place, 50, "--lr-schedule", "constant")
    plan = branch(place, folder, "--decay-steps", "20")
    leave_checkpoint(plan, 60)
    with pytest.raises(Refusal, match="branched off from another checkpoint"):
        branch(place, parent(place, 40, "--lr-schedule", "constant"), "--decay-steps", "20")
    (folder / "manifest.json").unlink()
    assert branch(place, folder, "--decay-steps", "20") == plan
    with pytest.raises(Refusal, match="put --decay-from back"):
        dry_run.render(place.plan("--experiment", "branch", "--lr-schedule", "constant"), "text")
