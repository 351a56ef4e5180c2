"""A conversion that is told to stop: it removes what it has written, ends its writer, and says so."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from nemo_workflow.utils.processes import handled


class _Stopped(BaseException):
    """Raised where a signal arrives. No Exception, for libraries catch those."""

    def __init__(self, number: int):
        self.number = number


def until_stopped(work: Callable[[], int], what: str) -> int:
    """`work()`, and what it returns; 130, 143 or 129 when Ctrl-C, SIGTERM or SIGHUP ended it. `what` it was, for the words."""

    def stop(number: int, frame: Any) -> NoReturn:
        for other in signals:  # a second one doesn't cut the removal short
            signal.signal(other, signal.SIG_IGN)
        raise _Stopped(number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        with handled(stop, *signals):
            return work()
    except _Stopped as stopped:
        name = signal.Signals(stopped.number).name
        print(f"{what} stopped by {name}: what it had written is removed, all else is as it was", file=sys.stderr)
        return 128 + stopped.number
