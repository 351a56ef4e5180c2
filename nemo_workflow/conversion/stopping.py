"""A conversion that is told to stop: it removes what it has written, ends its writer, and says so."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from nemo_workflow.utils.processes import ENDING, handled, signal_name


class _Stopped(BaseException):
    """Raised where a signal arrives. No Exception, for libraries catch those."""

    def __init__(self, number: int):
        self.number = number


_arrived: list[int] = []


def until_stopped(work: Callable[[], int], what: str) -> int:
    """`work()`, and what it returns; 130, 143 or 129 when Ctrl-C, SIGTERM or SIGHUP ended it. `what` it was, for the words."""

    def stop(number: int, frame: Any) -> NoReturn:
        _ignore_more()  # a second one doesn't cut the removal short
        _arrived.append(number)
        raise _Stopped(number)

    _arrived.clear()
    try:
        with handled(stop, *ENDING):
            return work()
    except BaseException:
        # or an error of a library whose import the signal cut short, as another finds it half made
        if not _arrived:
            raise
        said = "what it had written is removed, all else is as it was"
        print(f"{what} stopped by {signal_name(_arrived[0])}: {said}", file=sys.stderr)
        return 128 + _arrived[0]


def raise_if_stopped() -> None:
    """Raise again what a signal raised inside a library whose bare `except:` caught it: NeMo's imports have several."""
    if _arrived:
        raise _Stopped(_arrived[0])


def stop_no_more() -> None:
    """The last moment: from here to the end of `until_stopped`'s work a signal is ignored, for the output gets its name."""
    _ignore_more()
    raise_if_stopped()


def _ignore_more() -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
