"""What the parent and its workers send each other. Imports no numpy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_workflow.preprocess.documents import Reject


@dataclass(frozen=True)
class Task:
    """Some documents of the input numbered `source`.

    `done`: bytes of all inputs that are read when this task is; `position`: where in its own input the next task begins
    (bytes of the text, rows of a table).
    """

    source: int
    done: int
    position: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class LinesInFile(Task):
    """Whole lines of an uncompressed file: bytes start to end."""

    path: Path
    start: int
    end: int
    giant: bool = False  # a single line too long for memory
    delete: bool = False  # the file is ours, and done with after this


@dataclass(frozen=True)
class Lines(Task):
    """Whole lines, decompressed."""

    data: bytes


@dataclass(frozen=True)
class Rows(Task):
    """Rows of a table: a column of values a key."""

    columns: list[list[Any]]


@dataclass(frozen=True)
class TextFile(Task):
    """A file that is one document."""

    path: Path


@dataclass(frozen=True)
class Kept(Task):
    """Documents that an earlier run has encoded, of one input or of several in a row; `source` is the first of them.

    `pairs`: for each key the path of the pair's .bin, the place of the tokens in it in bytes, and the documents' lengths
    (int32); `ended`: the inputs whose last document is among them.
    """

    pairs: tuple[tuple[Path, int, int, bytes], ...]
    ended: tuple[int, ...]


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
