"""The two tools for an exported model, evaluate and sample, where the model or the text is no good."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_workflow.runs import evaluate, sample
from nemo_workflow.utils.errors import Failure, Refusal
from tests.conversion import tiny_models as tiny


@pytest.mark.e2e
def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="makes no token of it"):
        sample.generate(tiny.make("llama_scratch", tmp_path), "", 1, 0.0, 1)


@pytest.mark.e2e
@pytest.mark.parametrize("broken", ["model", "run"])
def test_a_loss_that_is_nan_fails(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is made up (a real one takes minutes); the model's loss is computed."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny.make("llama_scratch", tmp_path / "hf")
    if broken == "model":
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.lm_head.weight.data[0, 0] = float("nan")
        model.save_pretrained(folder)
    (tmp_path / "plan.json").write_text("{}")
    settings = SimpleNamespace(global_batch_size=2)
    schedule, run = SimpleNamespace(limit_val_batches=1), {"run_dir": str(tmp_path), "folder": tmp_path}
    plan = SimpleNamespace(schedule=schedule, settings=settings, vocab_size=0, sizes={}, **run)
    monkeypatch.setattr(evaluate.control, "plan_of", lambda run: plan)
    monkeypatch.setattr(evaluate, "validation_of", lambda plan, model: (float("nan") if broken == "run" else 2.0, ""))
    monkeypatch.setattr(evaluate, "validation_samples", lambda plan, count: [torch.arange(9)] * count)
    monkeypatch.setattr(sys, "argv", ["evaluate", "--hf-model", str(folder), "--run", str(tmp_path)])
    with pytest.raises(Failure, match="differ by nan"):
        evaluate.main()
