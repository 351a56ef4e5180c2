"""Parquet files and the .arrow files of the datasets library: batches of columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_workflow.preprocess.streams import BLOCK, damage_refused
from nemo_workflow.utils.errors import Refusal


class Table:
    """An open file, checked to hold the columns `keys`; a key with dots leads into structs."""

    def __init__(self, path: Path, keys: tuple[str, ...]):
        import pyarrow.parquet

        self.path, self.keys = path, keys
        self._parquet: Any = None
        self._source: Any = None
        self._stream: Any = None
        if path.name.lower().endswith(".parquet"):
            self._parquet = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BLOCK)
            schema = self._parquet.schema_arrow
        else:
            self._source = pyarrow.memory_map(str(path))
            head = self._source.read(6)
            self._source.seek(0)
            ipc = pyarrow.ipc
            self._stream = ipc.open_file(self._source) if head == b"ARROW1" else ipc.open_stream(self._source)
            schema = self._stream.schema
        self._check(schema)

    def _check(self, schema: Any) -> None:
        names = schema.names
        for key in self.keys:
            if names.count(key) > 1:
                raise Refusal(f"{self.path}: {names.count(key)} columns are named {key!r}; rename all but one")
            if _path(schema, key) is None:
                raise Refusal(
                    f"{self.path}: no column {key!r} among {', '.join(map(repr, names[:8]))}; name it with --json-keys"
                )

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[list[list[Any]], int, float]]:
        """Columns of about `size` bytes from row `start` on, the number of the row after them, the share of the file read."""
        row = 0
        for batch, share in self._parquet_batches(size) if self._parquet is not None else self._arrow_batches(size):
            row += batch.num_rows
            if row > start and batch.num_rows:
                kept = batch.slice(max(0, batch.num_rows - (row - start)))
                yield [_values(_column(kept, key)) for key in self.keys], row, share

    def _parquet_batches(self, size: int) -> Iterator[tuple[Any, float]]:
        metadata = self._parquet.metadata
        total = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        row_bytes = max(1, total // max(1, metadata.num_rows))
        rows, done = min(max(1, size // row_bytes), 20_000), 0
        for batch in self._parquet.iter_batches(
            batch_size=rows, columns=[*dict.fromkeys(self.keys)], use_threads=False
        ):
            done += batch.num_rows
            yield batch, done / max(1, metadata.num_rows)

    def _arrow_batches(self, size: int) -> Iterator[tuple[Any, float]]:
        total = max(1, self._source.size())
        stream = self._stream
        numbered = hasattr(stream, "num_record_batches")
        batches = map(stream.get_batch, range(stream.num_record_batches)) if numbered else stream
        for number, batch in enumerate(batches, 1):
            share = number / stream.num_record_batches if numbered else min(1.0, self._source.tell() / total)
            rows = min(max(1, size * batch.num_rows // max(1, batch.nbytes)), 20_000)
            for begin in range(0, batch.num_rows, rows):
                yield batch.slice(begin, rows), share

    def close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
        else:
            self._source.close()


@contextmanager
def open_table(path: Path, keys: tuple[str, ...]) -> Iterator[Table]:
    """The open table; a damaged one is refused."""
    with damage_refused(path):
        table = Table(path, keys)
        try:
            yield table
        finally:
            table.close()


def _path(fields: Any, key: str) -> list[str] | None:
    """The names of a column and of the structs' fields in it that `key` leads to; a name may have dots itself."""
    names = fields.names
    if names.count(key) == 1:
        return [key]
    dot = key.find(".")
    while dot >= 0:
        first = key[:dot]
        if names.count(first) == 1:
            kind = fields.field(first).type
            inner = _path(_Struct(kind), key[dot + 1 :]) if str(kind).startswith("struct<") else None
            if inner is not None:
                return [first, *inner]
        dot = key.find(".", dot + 1)
    return None


class _Struct:
    """A struct type with the face of a schema."""

    def __init__(self, kind: Any):
        self.names = [kind.field(number).name for number in range(kind.num_fields)]
        self.field = lambda name: kind.field(kind.get_field_index(name))


def _column(batch: Any, key: str) -> Any:
    import pyarrow.compute

    first, *inner = _path(batch.schema, key) or [key]
    return pyarrow.compute.struct_field(batch.column(first), inner) if inner else batch.column(first)


def _values(column: Any) -> list[Any]:
    """Python values; bytes where a text is no valid UTF-8."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(pyarrow.large_binary()).to_pylist()
