"""What a person sees while a run trains: reads the run's metrics file, draws one live line, prints what lasts."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from typing import Any

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import metrics
from nemo_workflow.utils.console import Meter, counted, human_count, human_time

WAIT_SECONDS = 20.0  # for the first step, or between two, after which a line says that the run lives


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
    """Follows one start of a run. `saving` tells that a checkpoint is being written, `started` that training began,
    `end` how it ended in the ranks' own words ("finished", "stopped"), `stopped_by` the signal that they were stopped by.

    `outlive`: whoever follows goes on when nobody sees it any more.
    """

    def __init__(self, plan: Plan, outlive: bool = False):
        self.plan = plan
        self.meter = Meter(sys.stdout, outlive=outlive)
        path = plan.folder / metrics.FILE
        self.tail = metrics.Tail(path, from_end=True)
        self.val_loss = metrics.last(path).get("validation", {}).get("val_loss")
        self.validated: int | None = None  # after which step that was, if seen
        self.left = TimeLeft()
        self.live = ""  # what the live line says
        self.newest_step: dict[str, Any] | None = None
        self.saving = False
        self.started = False
        self.last_step = 0
        self.end = ""
        self.stopped_by = 0
        self.asked_after: int | None = None  # the step after which the ranks began to stop
        self.began = time.monotonic()
        self.waits = self.began  # since when there has been no step
        self.told = 0  # how often that was said
        self.last_line = self.began  # when a step was last printed

    def update(self) -> None:
        """Show what has happened since the last call."""
        for event in self.tail.new():
            self._show(event)
        if self.left.began is None and not self.end:
            self._say_what_is_waited_for()
        self._draw()

    def _say_what_is_waited_for(self) -> None:
        """Before the first step of this start: it may take minutes on a CPU, and nobody should take it for dead."""
        waited = time.monotonic() - self.waits
        samples = self.plan.settings.global_batch_size
        what = f"the first step: {counted(samples, 'sample')}, {human_count(samples * self.plan.seq_length)} tokens"
        if not self.started:
            what = "the ranks start: they import NeMo and build the model"
        if self.meter.live:
            self.live = f"{what} ({human_time(waited)})"
        elif waited > WAIT_SECONDS * (self.told + 1):
            self.told += 1
            self.meter.note(f"{what} ({human_time(waited)} so far)")

    @property
    def cancelled(self) -> str:
        """What ranks do that are asked to stop now."""
        if self.end == "finished":
            return "the training is done, and the ranks are leaving"
        return (
            "the ranks finish their step and save"
            if self.started
            else "the ranks are still starting, there is nothing to save"
        )

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
        self.last_step = event["step"] if kind in ("start", "step") else self.last_step
        if kind == "stopping":
            self.stopped_by, self.asked_after = event["signal"], event["step"]
        if kind == "validation":
            self.val_loss, self.validated = event["val_loss"], event["step"]
        if kind == "start":
            self.live = ""
            self.waits, self.told = time.monotonic(), 0
        if kind == "end":
            self.end = event["reason"]
            if self.live and self.newest_step and self.validated != self.newest_step["step"]:
                # it stays, and would show an older step's loss
                self.live = metrics.progress(self.newest_step, max_steps, None, None, self.meter.columns)
            self.close()  # the last step stays
        if kind == "step":
            self._show_step(event, max_steps)
            return
        text = metrics.plain(event, max_steps, self.plan.settings.log_every)
        if text and kind == "start":
            text += f", on {self._where()}"
        if (
            kind == "validation" and self.newest_step and self.live
        ):  # the line that stays shows this loss, not the one before
            self.live = metrics.progress(self.newest_step, max_steps, None, self.val_loss, self.meter.columns)
        if text:
            self.meter.note(text)
            self._draw(always=True)  # below the line that stays, until the next step

    def _where(self) -> str:
        """What the ranks compute on: a GPU that wasn't found makes a CPU run, and should be seen."""
        ranks = self.plan.layout.ranks
        if self.plan.accelerator == "cpu":
            return f"the CPU, {counted(ranks, 'process')}"
        return counted(ranks, "GPU")

    def _show_step(self, event: dict[str, Any], max_steps: int) -> None:
        """On a terminal every step; in a log those asked for, the second, and one after a long wait."""
        left = self.left.after(event, max_steps)
        if self.meter.live:
            self.newest_step = event
            self.live = metrics.progress(event, max_steps, left, self.val_loss, self.meter.columns)
            return
        now, step = time.monotonic(), event["step"]
        asked = step % self.plan.settings.log_every == 0 or step == max_steps
        if asked or self.left.steps == 1 or now - self.last_line > WAIT_SECONDS:
            self.meter.note(metrics.progress(event, max_steps, left if step < max_steps else None))
            self.last_line = now
