"""How long the tests wait for what may never come, and whether processes have gone.

A limit is reached only where something is wrong, so a generous one costs nothing, and a short one fails where three suites share
two cores. No test asks whether something was quick. TEST_PATIENCE=3 makes every limit three times as long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

# for one event, answer or end of a process, in seconds
LIMIT = 600 * float(os.environ.get("TEST_PATIENCE", "1"))
# for a test with all its waits
WHOLE = 3 * LIMIT


def until(condition: Callable[[], Any], every: float = 0.02) -> Any:
    """The first true value of `condition()`."""
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < end, f"not true within {LIMIT:.0f} s"
        time.sleep(every)
    return value


def lives(pid: int) -> bool:
    """Whether a process is there and not a zombie: where nobody waits for orphans (a container without an init), those stay."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: Iterable[int]) -> bool:
    """Wait until none of these processes lives."""
    pids = list(pids)
    return bool(until(lambda: not any(map(lives, pids))))
