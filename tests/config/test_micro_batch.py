"""The micro batch size that a GPU run gets when it is left to us, and the formula behind MFU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config import micro_batch
from nemo_workflow.config.card import card_of
from nemo_workflow.config.command_line import parse
from nemo_workflow.config.flags import AUTO
from nemo_workflow.config.parallelism import Layout
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.launch import local
from nemo_workflow.models import catalog, flops
from nemo_workflow.utils.errors import Failure


def plan(tmp_path: Path, model: str = "llama32_1b", *words: str, **layout: int) -> Plan:
    settings = parse(["--hf-model-id", "x", "--dataset-dir", "y", "-gbs", "32", *words])
    sizes = {"nodes": 1, "ranks_per_node": 1, "tensor": 1, "pipeline": 1, "virtual_pipeline": 1} | layout
    recipe = catalog.find(model)
    return Plan(
        settings=replace(settings, micro_batch_size=1),
        given=tuple(settings.given),
        accelerator="gpu",
        model_name=model,
        layout=Layout(**{"context": 1, "expert": 1, "sequence_parallel": False} | sizes),
        sources=(),
        seq_length=recipe.fields["data.seq_length"],
        schedule=Schedule(10, 0, 0, 3e-4, 3e-5, 10, 10, 1),
        run_dir=str(tmp_path / "run"),
        sizes=recipe.sizes,
        vocab_size=128_256,
        card=card_of(settings, "gpu", 1),
    )


def chosen(*args: Any, **kwargs: Any) -> int:
    return int(micro_batch.chosen(plan(*args, **kwargs)).settings.micro_batch_size)


def test_the_largest_that_fits(tmp_path: Path) -> None:
    assert chosen(tmp_path) == 4
    assert chosen(tmp_path, "llama32_1b", "--gpu-memory", "40") == 1
    assert chosen(tmp_path, "llama_tiny") == 32  # the whole batch
    assert "micro batch size 4" in micro_batch.chosen(plan(tmp_path)).notes[-1]


def test_it_divides_the_batch_and_keeps_a_pipeline_busy(tmp_path: Path) -> None:
    assert list(micro_batch.sizes(plan(tmp_path, "llama_tiny", "-gbs", "12"))) == [12, 6, 4, 3, 2, 1]
    assert chosen(tmp_path, ranks_per_node=4, pipeline=4) == 2  # 16 micro batches per step for 4 stages


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ([], True),
        (["-mbs", "auto"], True),
        (["-mbs", "1"], False),
        (["--executor", "slurm"], False),
        (["--executor", "slurm", "-mbs", "auto"], True),
        (["--executor", "slurm", "--gpu-memory", "80"], True),
    ],
)
def test_whose_choice_it_is(words: list[str], ours: bool) -> None:
    settings = parse(["--hf-model-id", "x", "--dataset-dir", "y", *words])
    assert micro_batch.is_ours(settings, "gpu") is ours
    assert micro_batch.is_ours(settings, "cpu") is (settings.micro_batch_size is AUTO)


def test_out_of_memory_in_the_first_steps_takes_the_next_smaller(tmp_path: Path) -> None:
    run, attempt = micro_batch.chosen(plan(tmp_path)), tmp_path / "attempt"
    attempt.mkdir()
    run.folder.mkdir()
    (attempt / "rank0.error").write_text("1.0\ntorch.OutOfMemoryError: CUDA out of memory")
    events = [{"event": "start", "step": 0}, {"event": "step", "step": 1}]
    smaller = micro_batch.smaller_after_failure(run, attempt, events)
    assert smaller is not None and smaller.settings.micro_batch_size == 2
    given = replace(run, given=("micro_batch_size",))
    assert micro_batch.smaller_after_failure(given, attempt, events) is None
    events += [{"event": "step", "step": 2}, {"event": "step", "step": 3}]
    assert micro_batch.smaller_after_failure(run, attempt, events) is None
    (attempt / "rank0.error").write_text("1.0\nValueError: something else")
    assert micro_batch.smaller_after_failure(smaller, attempt, []) is None


def test_out_of_memory_in_the_set_up_of_a_resumed_run_takes_the_next_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier start's steps are no trial of this one. Stand-ins for the ranks: a CPU has no such failure."""
    run = micro_batch.chosen(plan(tmp_path))
    run.folder.mkdir()
    steps = [json.dumps({"event": "step", "step": step}) for step in range(1, 10)]
    (run.folder / "metrics.jsonl").write_text("\n".join(steps) + "\n")
    tried = []

    def start(self: Any) -> int:
        tried.append(self.plan.settings.micro_batch_size)
        if len(tried) == 1:
            (self.attempt / "rank0.error").write_text("1.0\ntorch.OutOfMemoryError: CUDA out of memory")
            raise Failure("rank 0")
        return 0

    monkeypatch.setattr(local._Local, "run", start)
    monkeypatch.setattr(local.resume, "check_changes", lambda plan: ({}, []))
    monkeypatch.setattr(local.staged_tokenizer, "stage", lambda plan: None)
    assert local.run_local(run) == 0
    assert len(tried) == 2 and tried[1] < tried[0]


def test_work_of_a_token() -> None:
    """Llama 3.2 1B by hand: 16 layers of 2048 x (2 x 2048 + 2 x 512) + 3 x 2048 x 8192, the output matrix, attention."""
    layer = 2048 * (2 * 2048 + 2 * 512) + 3 * 2048 * 8192
    wanted = 6 * (16 * layer + 2048 * 128_256) + 6 * 16 * 32 * 64 * 8192
    assert flops.flops_a_token("gpt", catalog.find("llama32_1b").sizes, 128_256, 8192) == wanted
    assert flops.flops_a_token("t5", {}, 1, 1) is None


def test_experts_count_as_often_as_they_are_used() -> None:
    """Qwen3 30B-A3B has 3.3 billion active parameters, 0.3 of them the embedding."""
    recipe = catalog.find("qwen3_30b_a3b")
    work = flops.flops_a_token("gpt", recipe.sizes, 151_936, 1)
    assert work is not None and 2.9e9 < work / 6 < 3.2e9


def test_peaks() -> None:
    assert flops.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert flops.peak_of("NVIDIA H100 PCIe") == 756e12
    assert flops.peak_of("Some other card") is None
