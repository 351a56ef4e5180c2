"""Times of training steps without making the GPU wait: a step's numbers are read when the next step has ended.

Reading a value from the GPU empties its queue of work, and the host then needs milliseconds to fill it again. So a
step leaves an event and copies of its numbers in the stream, and both are read once they are surely there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer

from nemo_workflow.run_dir.metric_table import METRICS

LOGGED = {metric.name: metric.logger for metric in METRICS if metric.logged_by_nemo}


@dataclass
class Finished:
    """A step that has been sent to the GPU. `values` are known now, `numbers` once `end` has passed."""

    values: dict[str, Any]
    numbers: dict[str, Any]
    begin: Any
    end: Any
    sums: Any = None  # of the sources' losses

    def seconds(self) -> float:
        """Duration of the step; waits for its end."""
        if isinstance(self.end, float):
            return float(self.end - self.begin)
        self.end.synchronize()
        return float(self.begin.elapsed_time(self.end)) / 1000

    def numbers_now(self) -> dict[str, float | None]:
        return {name: None if value is None else float(value) for name, value in self.numbers.items()}


class StepClock:
    """Marks where a step begins and ends."""

    def __init__(self) -> None:
        self.on_gpu = torch.cuda.is_available()
        self._begin: Any = None  # set by restart: a rank's GPU is not chosen yet here

    def restart(self) -> None:
        """Begin the next step here: what has happened since the last one was no part of a step."""
        self._begin = self._mark()

    def finished(self, trainer: Trainer, sums: Any = None, **values: Any) -> Finished:
        """The step that ends here; the next one begins."""
        numbers = {name: self._kept(_metric(trainer, metric)) for name, metric in LOGGED.items()}
        kept = self._kept(sums)
        begin, self._begin = self._begin, self._mark()
        return Finished(values, numbers, begin, self._begin, kept)

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _kept(value: Any) -> Any:
        """A copy that the host can read later without asking the GPU."""
        if not torch.is_tensor(value) or not value.is_cuda:
            return value
        kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        kept.copy_(value.detach(), non_blocking=True)
        return kept


def _metric(trainer: Trainer, name: str) -> Any:
    """The value last logged under a name. Lightning's own `callback_metrics` reads every value from the GPU."""
    for result in (trainer._results or {}).values():
        if result.meta.name == name:
            return result._forward_cache if result.meta.on_step else result.value
    return trainer._logger_connector._callback_metrics.get(name)
