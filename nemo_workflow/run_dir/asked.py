"""The signal that asked a start to stop, left in the attempt's folder by its launcher: what it sends the ranks is SIGTERM."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

ASKED = "asked"


def tell_signal(attempt: Path, number: int) -> None:
    """Leave word of the signal that the launcher got."""
    with contextlib.suppress(OSError):  # a full disk: the ranks say SIGTERM then
        (attempt / ASKED).write_text(str(number))


def asked_by_launcher(attempt: Path) -> int | None:
    """The signal that the launcher got, None where it has left no message."""
    try:
        return int((attempt / ASKED).read_text())
    except (OSError, ValueError):
        return None


def name_of(number: int) -> str:
    """The signal as its sender knows it: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
