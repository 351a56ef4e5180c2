"""How far an unfinished run has come, a JSON line at a time: what is written in the run's folder and need not be done again.

A line speaks of one input: the counts of all its documents up to `position`; the latest line of an input holds. Lines are
written when the tokens they speak of are in the file, so a killed process loses nothing. A machine that loses its power may:
lines that no {"synced": true} follows are believed only on the machine, and since the start of it, that wrote them.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.utils.files import written_aside

NAME = "journal.jsonl"
LINE_SECONDS = 0.1  # between two lines of one input
SYNC_SECONDS = 20.0


@dataclass
class Mark:
    """Lines to be written when the tokens of their task, and of all tasks before it, are in the file."""

    lines: Sequence[dict[str, Any]]
    flush: Callable[[], None]
    read: int  # bytes of all inputs that are done where they are written
    written: bool = False


class Journal:
    """Writes the journal of a run, beginning with the `lines` of an earlier one that hold. `sync` puts on disk what they
    speak of; `read` is how many bytes of all inputs that are."""

    def __init__(self, folder: Path, sync: Callable[[], None], lines: Sequence[dict[str, Any]] = ()):
        with written_aside(folder / NAME) as stream:  # a line that no longer holds must not be believed later
            for line in ({"boot": boot_id()}, *lines):
                stream.write(json.dumps(line) + "\n")
        self._stream = (folder / NAME).open("a", encoding="utf-8")
        self.read = read_bytes(lines)
        self._marks: deque[Mark] = deque()
        self._unsaid: Mark | None = None
        self._sync = sync
        self._said = self._synced = time.monotonic()

    def mark(
        self, lines: Sequence[dict[str, Any]], flush: Callable[[], None], read: int, written: bool = False
    ) -> Mark:
        """Add the next lines; call `done` when their tokens are written. `flush` empties buffers before the lines are."""
        self._marks.append(Mark(lines, flush, read, written))
        return self._marks[-1]

    def done(self, mark: Mark) -> None:
        mark.written = True
        self.advance()

    def advance(self) -> None:
        """Write what can be written: the end of each input, and now and then a line within one."""
        while self._marks and self._marks[0].written:
            self._unsaid = self._marks.popleft()
            if all(line["done"] for line in self._unsaid.lines):
                self._say()
        now = time.monotonic()
        if self._unsaid is not None and now - self._said > LINE_SECONDS:
            self._say()
            self._said = now
        if now - self._synced > SYNC_SECONDS:
            self.synced()

    def synced(self) -> None:
        """Put everything on disk, and say so."""
        self._sync()
        self._write({"synced": True})
        self._synced = time.monotonic()

    def _say(self) -> None:
        mark, self._unsaid = self._unsaid, None
        if mark is not None:
            mark.flush()
            self._write(*mark.lines)
            self.read = mark.read

    def _write(self, *lines: dict[str, Any]) -> None:
        self._stream.writelines(json.dumps(line) + "\n" for line in lines)
        self._stream.flush()

    def close(self) -> None:
        """Write what is left to say, where the disk still takes it."""
        with suppress(OSError):
            self._say()
        self._stream.close()


def read_bytes(lines: Iterable[dict[str, Any]]) -> int:
    """Of the inputs that some lines speak of, how much is done; of an older version's line it isn't known."""
    return sum(line.get("read", 0) for line in lines)


def read_journal(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines that hold, by the pair's prefix, in the order of the inputs."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    unsure: list[dict[str, Any]] = []
    believed = False

    def take() -> None:
        for line in unsure:
            found.setdefault(line["group"], {})[line["input"]["path"]] = line
        unsure.clear()

    for line in _lines(folder / NAME):
        if "boot" in line:
            if not believed:
                unsure.clear()
            take()
            believed = line["boot"] == boot_id()
        elif "synced" in line:
            take()
        else:
            unsure.append(line)
    if believed:
        take()
    return {group: list(lines.values()) for group, lines in found.items()}


def _lines(path: Path) -> list[dict[str, Any]]:
    out = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            out.append(json.loads(text))
    except (OSError, ValueError):  # a last line that was cut off
        pass
    return out


def boot_id() -> str:
    """Of this start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
