"""--profile: torch's profiler on rank 0 for some steps, and what each rank's GPU memory held when there was too little."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from nemo_workflow.config.flag_values import profiled
from nemo_workflow.config.plan import Plan

FOLDER = "profile"  # in the run's folder
ROWS = 15  # kernels that the report shows
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # kinds of a trace's events that are a GPU's own work
ALLOCATIONS = 100_000  # of a snapshot: the last ones


class Profiler(pl.Callback):
    """Rank 0's: a trace for chrome://tracing or Perfetto, and the costliest kernels as an event of the run."""

    def __init__(self, plan: Plan, run_log: Any):
        assert plan.settings.profile is not None
        self.run_log, self.folder = run_log, plan.folder / FOLDER
        self.first, self.final = profiled(plan.settings.profile)
        self._profile: profile | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step >= self.first:
            self.run_log.note(f"--profile: step {self.first} is made already, so nothing is profiled")

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.first:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._profile = profile(activities=kinds)
            self._profile.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._profile is not None and trainer.global_step >= self.final:
            self._finish()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if self._profile is not None:
            self._finish()

    def _finish(self) -> None:
        assert self._profile is not None
        made, self._profile = self._profile, None
        made.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"steps_{self.first}-{self.final}.json.gz"
        made.export_chrome_trace(str(path))
        kernels = costliest(list(gpu_work(path)) or cpu_work(made.key_averages()))
        self.run_log.event("profile", step=self.final, path=str(path), kernels=kernels)
        self.run_log.resume_clock()  # writing the trace is no part of a step


Work = tuple[str, int, float]  # name, calls, seconds


def gpu_work(trace: Path) -> Iterator[Work]:
    """What a GPU did itself. The averages of torch's table add each kernel to the operation that started it as well."""
    with gzip.open(trace, "rt") as stream:
        events = json.load(stream)["traceEvents"]
    return ((event["name"], 1, event["dur"] / 1e6) for event in events if event.get("cat") in ON_GPU)


def cpu_work(averages: Any) -> list[Work]:
    return [(entry.key, entry.count, entry.self_cpu_time_total / 1e6) for entry in averages]


def costliest(work: list[Work]) -> list[dict[str, Any]]:
    """What took longest: name, calls, seconds, share of all."""
    calls: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for name, count, taken in work:
        calls[name] = calls.get(name, 0) + count
        seconds[name] = seconds.get(name, 0.0) + taken
    total = sum(seconds.values()) or 1.0
    order = sorted(seconds, key=lambda name: -seconds[name])[:ROWS]
    return [
        {
            "name": name[:200],
            "calls": calls[name],
            "seconds": round(seconds[name], 6),
            "share": round(seconds[name] / total, 4),
        }
        for name in order
        if seconds[name]
    ]


def snapshot_when_out_of_memory(attempt: Path, rank: int) -> bool:
    """Have CUDA's allocator remember its allocations, and write them down when one fails; False without a GPU.

    https://docs.pytorch.org/memory_viz shows the file.
    """
    if not torch.cuda.is_available():
        return False
    torch.cuda.memory._record_memory_history(max_entries=ALLOCATIONS)

    def write(*_: Any) -> None:
        torch.cuda.memory._dump_snapshot(str(attempt / f"rank{rank}.memory_{time.time():.0f}.pickle"))

    torch._C._cuda_attach_out_of_memory_observer(write)
    return True
