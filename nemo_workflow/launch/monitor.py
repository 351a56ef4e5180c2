"""What a person sees while a run trains: reads the run's metrics file, draws one live line, prints what lasts."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from typing import Any

from nemo_workflow.config.run_config import Plan
from nemo_workflow.run_dir import metrics
from nemo_workflow.utils.console import Meter, human_time


class TimeLeft:
    """Seconds to the last step: the usual step, and a share of what is no step (validations, saves).

    A start's first step compiles kernels, and says nothing about the others.
    """

    def __init__(self) -> None:
        self.durations: deque[float] = deque(maxlen=20)
        self.began: float | None = None  # when the second step of this start began, in epoch seconds
        self.stepping = 0.0
        self.steps = 0

    def after(self, event: dict[str, Any], max_steps: int) -> float | None:
        """The estimate after a step; None after a start's first."""
        if self.began is None:
            self.began = event["time"]
            return None
        self.durations.append(event["seconds"])
        self.stepping += event["seconds"]
        self.steps += 1
        between = max(0.0, event["time"] - self.began - self.stepping) / self.steps
        return float((max_steps - event["step"]) * (statistics.median(self.durations) + between))


class Monitor:
    """Follows one start of a run. `saving` tells that a checkpoint is being written, `started` that training began.

    `outlive`: whoever follows goes on when nobody sees it any more.
    """

    def __init__(self, plan: Plan, outlive: bool = False):
        self.plan = plan
        self.meter = Meter(sys.stdout, outlive=outlive)
        path = plan.folder / metrics.FILE
        self.tail = metrics.Tail(path, from_end=True)
        self.val_loss = metrics.last(path).get("validation", {}).get("val_loss")
        self.left = TimeLeft()
        self.live = ""  # what the live line says
        self.saving = False
        self.started = False
        self.began = time.monotonic()

    def update(self) -> None:
        """Show what has happened since the last call."""
        for event in self.tail.new():
            self._show(event)
        if not self.started:
            self.live = f"the ranks start ({human_time(time.monotonic() - self.began)})"
        self._draw()

    def note(self, text: str) -> None:
        self.meter.note(text)

    def close(self) -> None:
        self._draw(always=True)
        self.meter.close()
        self.live = ""

    def _draw(self, always: bool = False) -> None:
        if self.live and self.meter.live:
            self.meter.show(self.live, always)

    def _show(self, event: dict[str, Any]) -> None:
        kind, max_steps = event["event"], self.plan.schedule.max_steps
        self.started = self.started or kind in ("start", "step")  # a follower may come after the start
        self.saving = kind == "stopping"
        if kind == "validation":
            self.val_loss = event["val_loss"]
        if kind == "start":
            self.live = ""
        if kind == "end":
            self.close()  # the last step stays
        if kind == "step" and self.meter.live:
            left = self.left.after(event, max_steps)
            self.live = metrics.progress(event, max_steps, left, self.val_loss, self.meter.columns)
            return
        text = metrics.plain(event, max_steps, self.plan.settings.log_every)
        if text:
            self.meter.note(text)
            self._draw(always=True)  # below the line that stays, until the next step
