"""--profile on a card: the GPU's own kernels in the table and the trace, and what the memory held when there was too little."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.later import later

profiling = later("nemo_workflow.training.profiling")
pytestmark = pytest.mark.gpu
Results = dict[str, dict[str, Any]]


def test_the_trace_and_the_table_hold_the_gpus_kernels(results: Results) -> None:
    assert "error" not in results["profile"], results["profile"]["error"]
    event = results["profile"]["profiled"]
    assert event["step"] == 4 and event["kernels"]
    with gzip.open(event["path"], "rt") as stream:
        trace = json.load(stream)["traceEvents"]
    on_the_gpu = {record["name"][:200] for record in trace if record.get("cat") in profiling.ON_GPU}
    assert {kernel["name"] for kernel in event["kernels"]} <= on_the_gpu
    assert 0.3 < sum(kernel["share"] for kernel in event["kernels"]) <= 1.001


def test_a_profile_changes_no_loss(results: Results) -> None:
    assert results["profile"]["losses"] == pytest.approx(results["plain"]["losses"], abs=0.02)


def test_out_of_memory_leaves_a_snapshot(results: Results, output: Path) -> None:
    assert "out of memory" in results["out_of_memory"]["error"]
    (path,) = output.glob("out_of_memory/**/rank0.memory_*.pickle")
    snapshot = pickle.loads(path.read_bytes())
    assert sum(segment["total_size"] for segment in snapshot["segments"]) > 2**30
    newest = snapshot["device_traces"][0][-1]
    assert newest["action"] == "oom"
