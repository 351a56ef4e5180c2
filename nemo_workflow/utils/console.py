"""What a person sees while a command works: one live line on a terminal, plain lines in a log."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterable
from typing import TextIO

LONG_HOURS = 1000  # a time of more is told in days
FULL = (errno.ENOSPC, errno.EDQUOT)  # a log on a full disk: there may be space again later


class Meter:
    """A live line on a terminal; elsewhere a plain line at most every `every` seconds.

    `show(text)` replaces the live line, `note(text)` prints a lasting line above it, `close()` ends it. With `outlive`
    a stream that is gone (a closed pipe, the terminal of an ssh that dropped) is no error: what follows is not seen.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 10.0, outlive: bool = False):
        self.stream = stream or sys.stderr
        self.outlive = outlive
        self.live = self.stream.isatty()
        self.every = every
        self._last_shown = float("-inf")
        self._drawn = False

    @property
    def columns(self) -> int:
        """Characters that a live line may have."""
        return shutil.get_terminal_size().columns - 1

    def show(self, text: str, always: bool = False) -> None:
        """Show progress. `always` prints in a log even if the last line is less than `every` seconds old."""
        now = time.monotonic()
        if self.live:
            if not always and now - self._last_shown < 0.1:
                return
            self._write(f"\r\x1b[K{text[: self.columns]}")
            self._drawn = True
        else:
            if not always and now - self._last_shown < self.every:
                return
            self._write(text + "\n")
        self._last_shown = now

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._write(f"\r\x1b[K{text}\n" if self._drawn else f"{text}\n")
        self._drawn = False

    def close(self) -> None:
        """Leave the last live line where it is and go to the next."""
        if self._drawn:
            self._write("\n")
            self._drawn = False

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            if not self.outlive:
                raise
            if error.errno not in FULL:
                _lead_nowhere(self.stream)


def unwritten(stream: TextIO, more: str = "") -> str:
    """Why what was printed to `stream`, and `more`, can't be written, as on a full disk; it is let go then. Empty where it can."""
    try:
        stream.write(more)
        stream.flush()
    except OSError as error:
        _lead_nowhere(stream)
        return error.strerror or str(error)
    return ""


def _lead_nowhere(stream: TextIO) -> None:
    """Send all that is still written to `stream`, by others and at the process's end too, to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def human_count(count: float) -> str:
    """1234567 -> '1.23M'."""
    for unit in ("", "k", "M", "B", "T"):
        if abs(float(f"{count:.3g}")) < 1000 or unit == "T":  # 999.7 million are 1B, not 1e+03M
            return f"{count:.0f}" if unit == "" else f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError


def counted(count: int, noun: str) -> str:
    """(1, 'step') -> '1 step', (6000, 'step') -> '6,000 steps', (2, 'entry') -> '2 entries'."""
    if count != 1 and noun.endswith("ry"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith(('tch', 'nch', 's')) else 's'}"


def one_of(values: Iterable[object]) -> str:
    """'1', '1 or 2', '1, 2 or 4'."""
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def human_epochs(epochs: float) -> str:
    """1.5 -> '1.50 epochs', 406091370.56 -> '406,091,371 epochs'."""
    return f"{epochs:,.2f} epochs" if epochs < 1000 else f"{epochs:,.0f} epochs"


def every(steps: int) -> str:
    """1 -> 'every step', 6 -> 'every 6 steps'."""
    return "every step" if steps == 1 else f"every {steps:,} steps"


def human_time(seconds: float) -> str:
    """3725 -> '1 h 02 min', 95 -> '1 min 35 s', 8 -> '8 s', 1e8 -> '1,157 days'."""
    seconds = max(0, round(seconds))
    hours, rest = divmod(seconds, 3600)
    minutes, secs = divmod(rest, 60)
    if hours >= LONG_HOURS:
        return f"{hours / 24:,.0f} days"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {secs:02d} s" if minutes else f"{secs} s"


def human_step(seconds: float) -> str:
    """0.0741 -> '0.0741 s', 62.51 -> '62.5 s', 2240 -> '37 min 20 s': what a step takes."""
    return f"{seconds:.3g} s" if seconds < 100 else human_time(seconds)


def and_more(names: list[str]) -> str:
    """'a', 'a and b', 'a and 499 more': one line however many there are."""
    return (
        names[0]
        if len(names) == 1
        else " and ".join(names)
        if len(names) == 2
        else f"{names[0]} and {len(names) - 1:,} more"
    )
