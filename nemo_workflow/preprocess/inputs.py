"""Cut the inputs into tasks of whole documents, in bounded memory."""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nemo_workflow.preprocess.documents import parse_lines
from nemo_workflow.preprocess.earlier import Stretch
from nemo_workflow.preprocess.messages import Lines, LinesInFile, Rows, Task, TextFile
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.preprocess.streams import BLOCK, damage_refused, open_text
from nemo_workflow.preprocess.tables import open_table

GIANT = 32 << 20  # a line longer than this is never held in memory


@dataclass(frozen=True)
class Todo:
    """What is left to do of one input: all from `start` on, or nothing; before it, what is copied of it and those after it."""

    start: int = 0  # where its next task begins (Task.position)
    done: bool = False
    kept: tuple[Stretch, ...] = ()


class Reader:
    """Tasks of about `chunk` bytes of the inputs; those of compressed files and tables carry their lines along."""

    def __init__(
        self,
        sources: list[Source],
        keys: tuple[str, ...],
        spool_dir: Path,
        chunk: int,
        note: Callable[[str], None] = lambda _: None,
        todo: dict[int, Todo] | None = None,
    ):
        self.sources, self.keys, self.spool_dir, self.chunk, self.note = sources, keys, spool_dir, chunk, note
        self.todo = todo or {}

    def tasks(self) -> Iterator[tuple[Task, bool]]:
        """Tasks in the order of the documents, each with whether it is small to send to a worker."""
        done = list(itertools.accumulate(source.to_read for source in self.sources))
        for number, source in enumerate(self.sources):
            todo = self.todo.get(number, Todo())
            for stretch in todo.kept:
                for kept in stretch.tasks(done, self.chunk):
                    yield kept, False
            if not todo.done:
                for task in self._of(number, source, done[number] - source.to_read, todo.start):
                    yield task, isinstance(task, (LinesInFile, TextFile))

    def _of(self, number: int, source: Source, before: int, start: int) -> Iterator[Task]:
        if source.is_text:
            if not start:
                yield TextFile(number, before + source.size, source.path, position=1)
        elif source.is_table:
            yield from self._table(number, source, before, start)
        elif not source.is_plain:
            yield from self._compressed(number, source, before, start)
        else:
            first = source.part[0] if source.part else 0
            for begin, end in line_ranges(source.path, self.chunk, start, source.part):
                giant = end - begin > GIANT
                yield LinesInFile(number, before + end - first, source.path, begin, end, giant, position=end)

    def _compressed(self, number: int, source: Source, before: int, start: int) -> Iterator[Task]:
        def warn(text: str) -> None:
            self.note(f"WARNING: {source.path}: {text}")

        with damage_refused(source.path), source.path.open("rb") as raw, open_text(source.path, raw, warn) as stream:
            position = start
            while start > 0:
                start -= len(stream.read(min(self.chunk, start)))
            pending = stream.read(self.chunk)
            while pending:
                cut = pending.rfind(b"\n") + 1
                if cut:
                    position += cut
                    yield Lines(number, before + raw.tell(), pending[:cut], position=position)
                    pending = pending[cut:]
                more = stream.read(self.chunk)
                if not more:
                    if pending:
                        yield Lines(number, before + raw.tell(), pending, position=position + len(pending))
                    return
                pending += more
                if len(pending) > GIANT and b"\n" not in pending:
                    name, size, pending = self._spool_line(pending, stream)
                    position += size
                    done = before + raw.tell()
                    yield LinesInFile(number, done, name, 0, size, giant=True, delete=True, position=position)

    def _spool_line(self, begun: bytes, stream: IO[bytes]) -> tuple[Path, int, bytes]:
        """Put a line that does not fit in memory into a file; returns it, its size and what was read beyond it."""
        descriptor, name = tempfile.mkstemp(prefix="line-", dir=self.spool_dir)
        size, rest = 0, b""
        with os.fdopen(descriptor, "wb") as spool:
            block = begun
            while block:
                cut = block.find(b"\n") + 1
                if cut:
                    block, rest = block[:cut], block[cut:]
                spool.write(block)
                size += len(block)
                block = b"" if cut else stream.read(self.chunk)
        return Path(name), size, rest or stream.read(self.chunk)

    def _table(self, number: int, source: Source, before: int, start: int) -> Iterator[Task]:
        with open_table(source.path, self.keys) as table:
            for columns, row, share in table.batches(self.chunk, start):
                yield Rows(number, before + int(source.size * share), columns, position=row)


def line_ranges(
    path: Path, chunk: int, start: int = 0, part: tuple[int, int] | None = None
) -> Iterator[tuple[int, int]]:
    """Byte ranges of whole lines from byte `start` on, about `chunk` bytes each; a line of more than GIANT bytes is a
    range of its own. With `part`, of the lines that begin in it only."""
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if part is not None:
            first, last = (_after_newline(stream, at - 1, size) if 0 < at < size else min(at, size) for at in part)
            start, size = max(start, first), last
        while start < size:
            end = min(start + chunk, size)
            if end < size:
                end = _after_newline(stream, end - 1, size)
            if end - start > GIANT:
                lines_end = start + os.pread(stream.fileno(), chunk, start).rfind(b"\n") + 1
                if start < lines_end < end:
                    yield start, lines_end
                    start = lines_end
                    continue
            yield start, end
            start = end


def _after_newline(stream: IO[bytes], at: int, size: int) -> int:
    """The place after the first line break at or after `at`."""
    while at < size:
        block = os.pread(stream.fileno(), 65536 if at % BLOCK else BLOCK, at)
        if not block:
            break
        found = block.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(block)
    return size


def sample_texts(
    sources: list[Source], keys: tuple[str, ...], documents: int = 40, characters: int = 4000
) -> list[str]:
    """The beginnings of some of the user's own documents, from several places of several files. Bad lines are passed over."""
    texts: list[str] = []
    chosen = sources[:: max(1, len(sources) // 8)][:8]
    share = max(2, documents // len(chosen))
    for source in chosen:
        if source.is_table:
            with open_table(source.path, keys) as table:
                columns, *_ = next(table.batches(BLOCK), ([], 0, 0))
            texts += [value[:characters] for column in columns for value in column[:share] if isinstance(value, str)]
            continue
        if source.is_text:
            with damage_refused(source.path), open_text(source.path) as stream:
                texts.append(stream.read(4 * characters).decode("utf-8", "replace")[:characters])
            continue
        for block in _sample_blocks(source):
            lines = block.split(b"\n", 10 * share)[: max(2, share // 4)]
            columns = parse_lines(b"\n".join(lines), keys)[0]
            texts += [text[:characters] for column in columns for text in column]
    return texts[: 2 * documents]


def _sample_blocks(source: Source) -> list[bytes]:
    if not source.is_plain:
        with damage_refused(source.path), open_text(source.path) as stream:
            return [stream.read(BLOCK)]
    with source.path.open("rb") as stream:
        size = source.size
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            blocks = [data[:BLOCK]]
            for place in range(1, 4):
                start = data.find(b"\n", place * size // 4, place * size // 4 + BLOCK) + 1
                if start:
                    blocks.append(data[start : start + BLOCK // 4])
    return blocks
