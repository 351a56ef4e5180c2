"""Planned against seen: what a run's first steps say of the plan's time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from nemo_workflow.utils.console import human_count

STEPS = 20  # of a start, after which its speed is known
WARM_UP = 4  # of them, in which kernels are compiled and caches filled
SLOW = 0.9  # of the plan: slower than that, there is a reason
PLANNED, SEEN = "planned_tokens_per_second", "seen_tokens_per_second"


class SpeedCheck:
    """Takes each step's tokens per second; once, after STEPS steps of a start, says how they compare with the plan.

    `why()` gives the reason, or '', where they are slower.
    """

    def __init__(self, planned: float | None, why: Callable[[], str] = str):
        self.planned, self.why = planned, why
        self._rates: list[float] = []

    def after_step(self, rate: float) -> dict[str, Any] | None:
        """The values of a note to the run's log, or None."""
        if self.planned is None or len(self._rates) >= STEPS:
            return None
        self._rates.append(rate)
        if len(self._rates) < STEPS:
            return None
        seen = settled(self._rates)
        reason = self.why() if seen < SLOW * self.planned else ""
        text = in_words(self.planned, seen) + (f"; {reason}" if reason else "")
        return {"text": text, PLANNED: round(self.planned, 1), SEEN: round(seen, 1)}


def settled(rates: list[float]) -> float:
    """Median tokens per second of a start's steps after its warm-up."""
    return statistics.median(rates[WARM_UP:] or rates)


def found(events: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The last note of it in a run's events."""
    return next((event for event in reversed(list(events)) if PLANNED in event), None)


def in_words(planned: float, seen: float) -> str:
    """'planned 41k tokens/s, seen 40k: 2 % slower than planned'."""
    apart = seen / planned - 1
    verdict = (
        "as planned" if abs(apart) < 0.005 else f"{abs(apart):.0%} {'faster' if apart > 0 else 'slower'} than planned"
    )
    return f"planned {human_count(planned)} tokens/s, seen {human_count(seen)}: {verdict}"
