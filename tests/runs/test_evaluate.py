"""The two tools for an exported model, evaluate and sample, where the model or the text is no good."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_workflow.runs import evaluate, sample
from nemo_workflow.utils.errors import Refusal
from tests.runs import fake_runs


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(sys, "argv", ["sample", "--hf-model", str(tmp_path), text])
    with pytest.raises(Refusal, match=r"TEXT.* empty"):
        sample.main()


@pytest.mark.parametrize("command", [sample.main, evaluate.main])
def test_a_folder_that_is_no_exported_model(
    command: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's folder leads to its exported model, a checkpoint to the command that exports it."""

    def said(folder: Path) -> str:
        more = ["text"] if command is sample.main else ["--run", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["tried", "--hf-model", str(folder), *more])
        with pytest.raises(Refusal) as caught:
            command()
        return str(caught.value)

    run = tmp_path / "my_run"
    (run / "checkpoint" / "weights").mkdir(parents=True)
    assert f"convert_from_nemo2_to_hf.py --source {run / 'checkpoint'} --output-path DIR" in said(run / "checkpoint")
    assert "no such folder; export a checkpoint first: python ckpt_conversion/" in said(tmp_path / "no")
    monkeypatch.chdir(tmp_path)
    for hub_id in ("gpt2", "org/some_model"):
        assert f"; --hf-model takes a folder, no Hub id: `hf download {hub_id} --local-dir DIR`" in said(Path(hub_id))
    (run / "hf_model").mkdir()
    (run / "hf_model" / "config.json").touch()
    assert said(run).endswith(f"is a run's folder; its exported model is {run / 'hf_model'}")


def test_a_run_without_a_validation_is_told_what_would_make_one(tmp_path: Path) -> None:
    plan = fake_runs.make_plan(tmp_path / "run")
    fake_runs.append(plan, [])
    with pytest.raises(Refusal, match="not been validated yet; its first validation follows step 25: train until"):
        evaluate.last_validation(plan)
    plan = replace(plan, schedule=replace(plan.schedule, limit_val_batches=0))
    with pytest.raises(Refusal, match=r"leaves nothing for one; train a run with .* --split 98,1,1"):
        evaluate.last_validation(plan)
