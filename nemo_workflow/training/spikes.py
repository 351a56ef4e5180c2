"""Rules about losses that need neither torch nor NeMo: what a jump is, and how many steps may be left out."""

from __future__ import annotations

import itertools
import statistics
from collections import deque

WINDOW = 50  # steps that a loss is compared with
LEAST = 10  # steps before the first warning
RECENT = 10  # steps whose median is the usual loss
FAR = 8.0  # times the usual change from step to step above it, and
RISE = 0.1  # above it by at least this share


class SpikeWarner:
    """Tells when a loss lies far above those of the last steps; it changes nothing."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def usual(self, loss: float | None) -> float | None:
        """The usual loss if `loss` is far above it, else None; the loss is remembered."""
        if loss is None:
            return None
        usual = None
        if len(self.losses) >= LEAST:
            seen = list(self.losses)
            middle = statistics.median(seen[-RECENT:])
            # changes, not distances from the median: a falling loss is far from its median without any noise
            change = statistics.median(abs(later - before) for before, later in itertools.pairwise(seen))
            if loss - middle > max(FAR * change, RISE * abs(middle)):
                usual = middle
        self.losses.append(loss)
        return usual


def steps_to_skip(on_nan: str) -> int:
    """'stop' -> 0, 'skip 3' -> 3."""
    return int(on_nan.split()[1]) if on_nan.startswith("skip") else 0
