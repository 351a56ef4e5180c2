"""--lr-schedule wsd, and --decay-from: a branch equals the run that it leaves, had that one decayed."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import rate_at
from tests.e2e.run.harness import manifest, samples

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]


def test_a_wsd_run_has_the_rates_of_its_plan(decay: Any) -> None:
    plan = Plan.from_json((decay.run.folder / "plan.json").read_text(encoding="utf-8"))
    rates = [row[2] for row in decay.run.history()["steps"]]
    assert rates == pytest.approx([rate_at(plan.schedule, step) for step in range(8)])
    assert rates[1:5] == [rates[1]] * 4 and rates[5] > rates[6] > rates[7] > plan.schedule.min_lr


def test_a_branch_makes_the_same_steps_bit_for_bit(decay: Any) -> None:
    whole, branch = decay.run.history(), decay.branch.history()
    assert branch["steps"] == whole["steps"][4:]
    # of the step it leaves too; before step 1 only the whole run
    assert branch["validations"] == whole["validations"][1:] and whole["validations"][0][0] == 0
    assert samples(decay.records["branch"])["train"] == samples(decay.records["whole"])["train"][16:]
    assert decay.branch.resumed_after() == 4


def test_a_branch_remembers_where_it_comes_from_and_names_no_module_of_ours(decay: Any) -> None:
    newest = decay.branch.checkpoints / "step_00000008"
    assert manifest(newest)["identity"]["branch"]["step"] == 4
    assert "nemo_workflow" not in (newest / "context" / "io.json").read_text(encoding="utf-8")
    assert decay.again.code == 0 and "already trained to step 8" in decay.again.output
    assert decay.run.whole() == [4, 8]


@pytest.mark.parametrize(("parent", "name"), [("whole", "split"), ("stages", "spread")])
def test_a_branch_on_another_layout_makes_the_same_steps(decay: Any, parent: str, name: str) -> None:
    """Two tensor parallel ranks from the checkpoint of one; two data parallel ones from that of two pipeline stages.

    The same samples and rates, losses up to rounding.
    """
    left = {"whole": decay.run, "stages": decay.stages}[parent]
    whole, split = left.history(), getattr(decay, name).history()
    ours = samples(decay.records[name])["train"]
    assert ours == samples(decay.records[parent])["train"][16:]
    for mine, theirs in zip(split["steps"], whole["steps"][4:], strict=True):
        assert (mine[0], mine[2], mine[4]) == (theirs[0], theirs[2], theirs[4])
        assert mine[1] == pytest.approx(theirs[1], abs=0.01)


def test_each_validation_set_has_its_loss_before_the_first_step_and_at_each_validation(decay: Any) -> None:
    validations = [event for event in decay.run.events() if event["event"] == "validation"]
    assert [event["step"] for event in validations] == [0, 4, 8]
    for event in validations:  # one holds what --split validates on: the same samples in the same order
        assert event["set_losses"]["part"] == pytest.approx(event["val_loss"], rel=1e-6)  # Lightning sums in fp32
        assert event["set_losses"]["all"] != pytest.approx(event["val_loss"], rel=1e-6)
    losses = [event["set_losses"]["all"] for event in validations]
    assert losses[0] > losses[1] > losses[2]
    assert (
        f"step 8: validation loss {validations[2]['val_loss']:.4f}, part {validations[2]['val_loss']:.4f}, all "
        in decay.output
    )
    branch = [event["set_losses"] for event in decay.branch.events() if event["event"] == "validation"]
    assert branch == [event["set_losses"] for event in validations[1:]]


def test_the_loggers_and_the_report_have_each_sets_loss(decay: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(decay.run.folder / "tensorboard"))
    read.Reload()
    losses = [event["set_losses"]["all"] for event in decay.run.events() if event["event"] == "validation"]
    assert [value.value for value in read.Scalars("val_loss/all")] == pytest.approx(losses)
    assert "Loss on each validation set" in (decay.run.folder / "report.html").read_text(encoding="utf-8")
