"""The last words of a finished run: how it went, where things are, what to type next."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_workflow.run_dir import metrics
from nemo_workflow.runs import finished
from tests.runs import fake_runs


@pytest.fixture(autouse=True)
def active(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, as `source .venv/bin/activate` leaves the shell."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))


def test_where_the_environment_is_not_active_its_python_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run ends that another Python has begun, from a folder elsewhere: `python` would be that one, or none."""
    fake_runs.write_run(tmp_path / "my_run")
    plan = fake_runs.make_plan(tmp_path / "my_run")
    (plan.folder / metrics.SUMMARY).write_text(json.dumps({"first_loss": 8.5, "final_loss": 3.25, "val_loss": None}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(finished.last_words(plan))[-1] == f"  export      {sys.executable} -m nemo_workflow.export my_run"


def test_it_names_losses_checkpoint_report_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_runs.write_run(tmp_path / "my_run")
    plan = fake_runs.make_plan(tmp_path / "my_run")
    summary = {"first_loss": 8.5, "final_loss": 3.25, "val_loss": 3.5, "val_step": 80, "steps": 84}
    (plan.folder / metrics.SUMMARY).write_text(json.dumps(summary))
    (plan.folder / "report.html").write_text("")
    monkeypatch.chdir(tmp_path)
    lines = list(finished.last_words(plan))
    assert lines[0] == "  loss 8.5000 -> 3.2500, validation loss 3.5000 at step 80"
    assert "  report      my_run/report.html" in lines
    checkpoint = next(line.split()[1] for line in lines if line.startswith("  checkpoint"))
    assert (tmp_path / checkpoint).is_dir()
    assert lines[-1] == "  export      python -m nemo_workflow.export my_run"
    assert [line for line in finished.after_export(plan) if line.startswith("  proof")] == [
        "  proof       python -m nemo_workflow.evaluate --hf-model my_run/hf_model --run my_run"
    ]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert f"  report      {tmp_path}/my_run/report.html" in list(finished.last_words(plan))


@pytest.mark.parametrize(
    ("first", "final", "told"), [(6.7, 107721.0, True), (6.7, 8.1, True), (6.7, 7.9, False), (6.7, 3.0, False)]
)
def test_a_loss_that_rose_is_told(tmp_path: Path, first: float, final: float, told: bool) -> None:
    plan = fake_runs.write_run(tmp_path / "my_run")
    (plan.folder / metrics.SUMMARY).write_text(json.dumps({"first_loss": first, "final_loss": final}))
    lines = list(finished.last_words(plan))
    assert lines[0] == f"  loss {first:.4f} -> {final:.4f}"
    assert (
        lines[1].startswith("  WARNING     the loss is above that of its first step: the training has diverged") == told
    )


def test_a_run_with_a_sample_ends_with_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And offers no comparison of validation losses where there is no validation."""
    plan = fake_runs.write_run(tmp_path / "my_run", sample="Once")
    plan = replace(plan, schedule=replace(plan.schedule, limit_val_batches=0))
    monkeypatch.chdir(tmp_path)
    text, more = finished.after_export(plan)
    assert text == "  more text   python -m nemo_workflow.sample --hf-model my_run/hf_model 'another text'"
    assert "larger --max-steps than 100" in more
    fewer = replace(plan, schedule=replace(plan.schedule, max_steps=20))  # of a run that has made 100
    assert "larger --max-steps than 100" in list(finished.after_export(fewer))[-1]
