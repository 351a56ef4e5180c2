"""A metric is one row: everything that shows it reads the table, and the ranks compute every row."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nemo_workflow.models import catalog
from nemo_workflow.run_dir.metric_table import METRICS, words
from tests.runs import fake_runs

ON_GPU_ONLY = {"tflops_per_gpu", "mfu"}


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len({metric.logger for metric in METRICS}) == len(METRICS)


@pytest.mark.slow
def test_a_rank_computes_every_row(tmp_path: Path) -> None:
    from nemo_workflow.training.step_clock import Finished
    from nemo_workflow.training.step_metrics import StepMetrics

    plan = fake_runs.make_plan(tmp_path / "run")
    plan = dataclasses.replace(plan, sizes=catalog.find(plan.model_name).sizes)
    values = {"step": 3, "consumed_samples": 48, "memory_bytes": 1 << 30}
    finished = Finished(values, {"loss": 2.5, "lr": 1e-3, "grad_norm": 1.0}, 10.0, 12.0)
    event = StepMetrics(plan, on_gpu=False).of(finished)
    rows = {metric.name for metric in METRICS if metric.event == "step"}
    assert event.keys() == {"step", *rows} - ON_GPU_ONLY
    assert (event["seconds"], event["samples_per_second"], event["tokens_per_second"]) == (2.0, 8.0, 8.0 * 256)


def test_a_line_shows_what_there_is() -> None:
    shown = words({"loss": 2.5, "lr": None, "mfu": 0.0, "tokens_per_second": 2048.0, "seconds": 1.0})
    assert shown == {"loss": "loss 2.5000", "tokens_per_second": "2.05k tokens/s"}
