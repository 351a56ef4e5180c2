"""What the parent and its workers send each other. Light: no numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_workflow.preprocess.documents import Reject


@dataclass(frozen=True)
class LinesInFile:
    """Whole lines of an uncompressed file: bytes start to end. `done`: bytes of the inputs read when this task is."""

    source: int
    done: int
    path: Path
    start: int
    end: int
    giant: bool = False  # a single line too long for memory
    delete: bool = False  # the file is ours, and done with after this


@dataclass(frozen=True)
class Lines:
    """Whole lines, decompressed."""

    source: int
    done: int
    data: bytes


@dataclass(frozen=True)
class Rows:
    """Rows of a Parquet file: a column of values a key."""

    source: int
    done: int
    columns: list[list[Any]]


Task = LinesInFile | Lines | Rows


@dataclass(frozen=True)
class Place:
    """The order to write the tokens of the worker's oldest result that is not yet written: a file and an offset a key."""

    files: list[tuple[Path, int]]


@dataclass
class Tokens:
    """Tokens of one key of a task. The worker keeps them, in `data` or, if there are many, in the file `spool`, until it
    is told where in the .bin they belong; `size` is in bytes, `lengths` is int32, 0 for no tokens."""

    lengths: bytes
    size: int
    utf8_bytes: int
    eod_inside: int
    seen: bytes  # a bit for each id, np.packbits
    data: bytes | memoryview = b""
    spool: Path | None = None

    def without_data(self) -> Tokens:
        """What is sent to the parent."""
        return replace(self, data=b"", spool=None)


@dataclass
class Result:
    """Of one task. `rejects` are numbered within the task's `lines`."""

    tokens: list[Tokens]
    rejects: list[Reject]
    lines: int
