"""How far an extraction has come, on disk: the next call goes on from the last entry, whatever ended this one.

Beside the dump's files NAME.jsonl.partial grows and NAME.jsonl.progress.json says how much of it is right. When all is
done NAME.jsonl.made.json records how it was made, and the partial file is renamed to NAME.jsonl.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import fsync_dir, write_json

CLEANER = 3  # raise it when the text of a page changes: unfinished extractions then start again
EVERY = 2.0  # seconds between two entries


@dataclass(frozen=True)
class Rules:
    """Which pages to keep, and how to write them: what makes two outputs of one dump differ."""

    min_chars: int = 50
    convert: str = "none"  # an OpenCC configuration, or none
    keep_metadata: bool = False
    max_pages: int | None = None
    cleaner: int = CLEANER


@dataclass
class Counts:
    """Pages read, and what became of them."""

    read: int = 0
    kept: int = 0
    redirects: int = 0
    not_articles: int = 0
    short: int = 0
    broken: int = 0
    characters: int = 0

    def add(self, other: Counts) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class Journal:
    """The output so far: lines are appended, and counted only once they are on disk.

    `key` says what is made of what; an unfinished file of another key starts again.
    """

    def __init__(self, output: Path, dump_folder: Path, key: dict[str, Any]):
        self.output = output
        self.key = key
        self.partial = dump_folder / f"{output.name}.partial"
        self.progress = dump_folder / f"{output.name}.progress.json"
        self.made = dump_folder / f"{output.name}.made.json"
        self.part = 0
        self.streams = 0  # done of this part
        self.counts = Counts()
        self.stream: IO[bytes] | None = None
        self._written = time.monotonic()

    def is_made(self) -> bool:
        """True if the output is there, whole and made with this key; raises Refusal if another one is in its place."""
        if not self.output.exists():
            return False
        try:
            made = json.loads(self.made.read_text())
            key, size = made["key"], made["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            how = f"{self.made}, which says how it was made, is missing"
        else:
            if size != self.output.stat().st_size:
                how = f"it has {self.output.stat().st_size} bytes instead of {size}"
            elif key == self.key:
                return True
            else:
                how = "it was made with " + ", ".join(_differences(key, self.key))
        raise Refusal(f"{self.output}: already there, but {how}; move it away or add --overwrite")

    def open(self) -> bool:
        """Open the partial file at the last entry's end; true if there was something to go on from."""
        size = 0
        try:
            entry = json.loads(self.progress.read_text())
            if entry["key"] == self.key and self.partial.stat().st_size >= entry["bytes"]:
                size, self.part, self.streams = entry["bytes"], entry["part"], entry["streams"]
                self.counts = Counts(**entry["counts"])
        except (OSError, ValueError, KeyError, TypeError):
            size = 0
        self.stream = self.partial.open("r+b" if size else "wb")
        self.stream.truncate(size)
        self.stream.seek(size)
        return bool(self.part or self.streams)

    def append(self, lines: Iterable[bytes], counts: Counts) -> None:
        """Add the lines of the next stream."""
        assert self.stream is not None
        self.stream.writelines(lines)
        self.counts.add(counts)
        self.streams += 1
        if time.monotonic() - self._written > EVERY:
            self.enter()

    def next_part(self) -> None:
        self.part += 1
        self.streams = 0
        self.enter()

    def enter(self) -> None:
        """Bring the lines to disk, then say so."""
        assert self.stream is not None
        self.stream.flush()
        os.fsync(self.stream.fileno())
        entry = {"key": self.key, "part": self.part, "streams": self.streams, "bytes": self.stream.tell()}
        write_json(self.progress, entry | {"counts": asdict(self.counts)})
        self._written = time.monotonic()

    def finish(self) -> None:
        """Put the whole file in its place."""
        assert self.stream is not None
        self.enter()
        size = self.stream.tell()
        self.stream.close()
        write_json(self.made, {"key": self.key, "bytes": size, "counts": asdict(self.counts)})
        self.partial.replace(self.output)
        fsync_dir(self.output.parent)
        self.progress.unlink()


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterable[str]:
    """`--min-chars 10, not 50` for each setting that differs."""
    before, after = old.get("rules", {}), new["rules"]
    for name in after:
        if before.get(name) != after[name]:
            yield f"--{name.replace('_', '-')} {before.get(name)}, not {after[name]}"
    if old.get("file") != new.get("file"):
        yield "another file of that name (--dump)"
    elif old.get("sha1") != new.get("sha1"):
        yield f"{len(old.get('sha1', ()))} parts of the dump, not {len(new.get('sha1', ()))} (--url-limit)"
