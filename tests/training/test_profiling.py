"""--profile: torch's own profiler on a CPU, without a training; on a card it is tests/e2e/gpu/test_profile.py."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.utils.errors import Refusal
from tests.later import later
from tests.places import Place

pytestmark = pytest.mark.slow
torch, profiling = later("torch"), later("nemo_workflow.training.profiling")


class Log:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.note = self.notes.append

    def event(self, kind: str, **values: Any) -> None:
        self.events.append({"event": kind, **values})

    def resume_clock(self) -> None:
        pass


def trained(folder: Path, steps: str, begin: int = 0, end: int = 4) -> Log:
    """Steps of one product each."""
    log, trainer = Log(), SimpleNamespace(global_step=begin)
    profiler = profiling.Profiler(SimpleNamespace(settings=SimpleNamespace(profile=steps), folder=folder), log)  # type: ignore[arg-type]
    profiler.on_train_start(trainer, None)  # type: ignore[arg-type]
    for step in range(begin, end):
        profiler.on_train_batch_start(trainer)  # type: ignore[arg-type]
        torch.ones(300, 300) @ torch.ones(300, 300)
        trainer.global_step = step + 1
        profiler.on_train_batch_end(trainer)  # type: ignore[arg-type]
    return log


def test_the_steps_asked_for_are_in_trace_and_table(tmp_path: Path) -> None:
    (event,) = trained(tmp_path, "2-3").events
    kernels = {kernel["name"]: kernel for kernel in event["kernels"]}
    assert kernels["aten::mm"]["calls"] == 2 and 0 < kernels["aten::mm"]["share"] <= 1
    assert sum(kernel["share"] for kernel in event["kernels"]) <= 1.001
    assert json.loads(gzip.decompress(Path(event["path"]).read_bytes()))["traceEvents"]
    assert Path(event["path"]) == tmp_path / "profile" / "steps_2-3.json.gz"


def test_a_gpus_kernel_counts_once_and_not_for_what_started_it(tmp_path: Path) -> None:
    """A trace with the kinds of events that torch's profiler wrote on an H200."""
    events = [
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 900.0},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "Optimizer.step", "ts": 0, "dur": 5000.0},
        {"ph": "X", "cat": "overhead", "name": "Command Buffer Full", "ts": 0, "dur": 700.0},
        {"ph": "X", "cat": "kernel", "name": "nvjet_sm90_tss", "ts": 10, "dur": 300.0},
        {"ph": "X", "cat": "kernel", "name": "nvjet_sm90_tss", "ts": 400, "dur": 300.0},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pinned)", "ts": 800, "dur": 200.0},
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "python3"}},
    ]
    trace = tmp_path / "trace.json.gz"
    trace.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    product, copy = profiling.costliest(list(profiling.gpu_work(trace)))
    assert product == {"name": "nvjet_sm90_tss", "calls": 2, "seconds": 0.0006, "share": 0.75}
    assert copy["calls"] == 1 and copy["share"] == 0.25


def test_a_resumed_run_says_that_the_steps_are_over(tmp_path: Path) -> None:
    log = trained(tmp_path, "2", begin=3)
    assert log.events == [] and log.notes == ["--profile: step 2 is made already, so nothing is profiled"]


def test_without_a_gpu_no_memory_is_recorded(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        assert profiling.snapshot_when_out_of_memory(tmp_path, 0) is False


@pytest.mark.usefixtures("no_outside")
@pytest.mark.parametrize(("steps", "why"), [("99-100", "the run has 65 steps"), ("1-21", "too large a trace")])
def test_steps_that_can_not_be_profiled(steps: str, why: str, shared: Place) -> None:
    with pytest.raises(Refusal, match=why):
        shared.plan("--profile", steps)


@pytest.mark.parametrize("steps", ["0", "7-5", "5-", "a", "-3"])
def test_what_is_no_range(steps: str) -> None:
    with pytest.raises(Refusal, match="expected one step, or the first and the last"):
        command_line.parse(
            ["-M", "llama_tiny", "--hf-model-id", "gpt2", "--dataset-dir", "/data", f"--profile={steps}"]
        )
