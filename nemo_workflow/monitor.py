"""What a person sees while a run trains: reads the run's metrics file, draws one live line, prints what lasts."""

from __future__ import annotations

import statistics
import sys
from collections import deque
from typing import Any

from nemo_workflow import events
from nemo_workflow.console import Meter
from nemo_workflow.plan import Plan


class Monitor:
    """Follows one start of a run. `saving` tells that a checkpoint is being written, `started` that training began."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.meter = Meter(sys.stdout)
        self.tail = events.Tail(plan.folder / events.FILE, from_end=True)
        self.durations: deque[float] = deque(maxlen=20)
        self.saving = False
        self.started = False

    def update(self) -> None:
        """Show what has happened since the last call."""
        for event in self.tail.new():
            self._show(event)

    def note(self, text: str) -> None:
        self.meter.note(text)

    def close(self) -> None:
        self.meter.close()

    def _show(self, event: dict[str, Any]) -> None:
        self.started = True
        self.saving = event["event"] == "stopping"
        max_steps = self.plan.schedule.max_steps
        if event["event"] == "step" and self.meter.live:
            self.durations.append(event["seconds"])
            left = (max_steps - event["step"]) * statistics.median(self.durations)
            self.meter.show(events.progress(event, max_steps, left))
            return
        text = events.plain(event, max_steps, self.plan.setting("log_every"))
        if text:
            self.meter.note(text)
