"""Cut the inputs into tasks of whole lines, in bounded memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from nemo_workflow.preprocess.documents import BOM, parse_lines
from nemo_workflow.preprocess.messages import Lines, LinesInFile, Rows, Task
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.preprocess.streams import BLOCK, damage_refused, open_text
from nemo_workflow.utils.errors import Refusal

GIANT = 32 << 20  # a line longer than this is never held in memory


class Reader:
    """Tasks of about `chunk` bytes of the inputs; those of compressed files and Parquet carry their lines along."""

    def __init__(
        self, sources: list[Source], keys: tuple[str, ...], spool_dir: Path, chunk: int, note: Callable[[str], None]
    ):
        self.sources, self.keys, self.spool_dir, self.chunk, self.note = sources, keys, spool_dir, chunk, note

    def tasks(self) -> Iterator[tuple[Task, bool]]:
        """Tasks in the order of the documents, each with whether it is small to send to a worker."""
        before = 0
        for number, source in enumerate(self.sources):
            if source.is_plain:
                for start, end in line_ranges(source.path, self.chunk):
                    yield LinesInFile(number, before + end, source.path, start, end, giant=end - start > GIANT), True
            else:
                for task in (
                    self._parquet(number, source, before)
                    if source.is_parquet
                    else self._compressed(number, source, before)
                ):
                    yield task, isinstance(task, LinesInFile)
            before += source.size

    def _compressed(self, number: int, source: Source, before: int) -> Iterator[Task]:
        def warn(text: str) -> None:
            self.note(f"WARNING: {source.path}: {text}")

        with damage_refused(source.path), source.path.open("rb") as raw, open_text(source.path, raw, warn) as stream:
            pending = stream.read(self.chunk).removeprefix(BOM)
            while pending:
                cut = pending.rfind(b"\n") + 1
                if cut:
                    yield Lines(number, before + raw.tell(), pending[:cut])
                    pending = pending[cut:]
                more = stream.read(self.chunk)
                if not more:
                    if pending:
                        yield Lines(number, before + raw.tell(), pending)
                    return
                pending += more
                if len(pending) > GIANT and b"\n" not in pending:
                    name, size, pending = self._spool_line(pending, stream)
                    yield LinesInFile(number, before + raw.tell(), name, 0, size, giant=True, delete=True)

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

    def _parquet(self, number: int, source: Source, before: int) -> Iterator[Task]:
        with damage_refused(source.path), open_parquet(source.path, self.keys) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            rows = max(1, file.metadata.num_rows)
            row_bytes = max(1, sum(group.total_byte_size for group in groups) // rows)
            batch_rows = min(max(1, self.chunk // row_bytes), 20_000)
            done = 0
            for batch in file.iter_batches(batch_size=batch_rows, columns=list(self.keys), use_threads=False):
                done += batch.num_rows
                if batch.num_rows:
                    columns = [_values(batch.column(key)) for key in self.keys]
                    yield Rows(number, before + source.size * done // rows, columns)


def line_ranges(path: Path, chunk: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of whole lines, about `chunk` bytes each; a line of more than GIANT bytes is a range of its own."""
    with path.open("rb", buffering=0) as stream:
        size, start = os.fstat(stream.fileno()).st_size, 0
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


def open_parquet(path: Path, keys: tuple[str, ...]) -> Any:
    """The open file, checked to hold the columns `keys`."""
    import pyarrow.parquet

    with damage_refused(path):
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BLOCK)
    names = file.schema_arrow.names
    missing = [key for key in keys if key not in names]
    if missing:
        raise Refusal(
            f"{path}: no column {missing[0]!r} among {', '.join(map(repr, names[:8]))}; name it with --json-keys"
        )
    twice = [key for key in keys if names.count(key) > 1]
    if twice:
        raise Refusal(f"{path}: {names.count(twice[0])} columns are named {twice[0]!r}; rename all but one")
    if file.metadata.num_rows == 0:
        raise Refusal(f"{path}: no rows; there is nothing to train on")
    return file


def _values(column: Any) -> list[Any]:
    """Python values; bytes where a text is no valid UTF-8."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(pyarrow.large_binary()).to_pylist()


def sample_texts(
    sources: list[Source], keys: tuple[str, ...], documents: int = 40, characters: int = 4000
) -> list[str]:
    """The beginnings of some of the user's own documents, from several places of several files. Bad lines are passed over."""
    texts: list[str] = []
    chosen = sources[:: max(1, len(sources) // 8)][:8]
    share = max(2, documents // len(chosen))
    for source in chosen:
        if source.is_parquet:
            with damage_refused(source.path), open_parquet(source.path, keys) as file:
                batch = next(file.iter_batches(batch_size=share, columns=list(keys), use_threads=False), None)
                columns = [_values(batch.column(key)) for key in keys] if batch else []
            texts += [v[:characters] for column in columns for v in column if isinstance(v, str)]
            continue
        for block in _sample_blocks(source):
            lines = block.split(b"\n", 10 * share)[: max(2, share // 4)]
            columns = parse_lines(b"\n".join(lines), keys)[0]
            texts += [text[:characters] for column in columns for text in column]
    return texts[: 2 * documents]


def _sample_blocks(source: Source) -> list[bytes]:
    if not source.is_plain:
        with damage_refused(source.path), open_text(source.path) as stream:
            return [stream.read(BLOCK).removeprefix(BOM)]
    with source.path.open("rb") as stream:
        size = source.size
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            blocks = [data[:BLOCK].removeprefix(BOM)]
            for place in range(1, 4):
                start = data.find(b"\n", place * size // 4, place * size // 4 + BLOCK) + 1
                if start:
                    blocks.append(data[start : start + BLOCK // 4])
    return blocks
