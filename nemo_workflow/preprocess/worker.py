"""A task -> tokens, in a worker process."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_workflow.preprocess.documents import BOM, BadLine, Reject, check_text, decoded, parse_lines, utf8_size
from nemo_workflow.preprocess.engines import Engine
from nemo_workflow.preprocess.messages import Kept, Lines, LinesInFile, Place, Result, Rows, Task, TextFile, Tokens
from nemo_workflow.preprocess.oversized_line import read_giant
from nemo_workflow.preprocess.split_long_text import PIECE, pieces
from nemo_workflow.preprocess.streams import BLOCK, damage_refused, open_text
from nemo_workflow.preprocess.tokenizer import TokenizerSpec
from nemo_workflow.utils.errors import Failure

LONG_TEXT = 2 * PIECE  # characters; longer ones are cut
WRITTEN_BEHIND = 64 << 20  # bytes of a .bin before the place just written that may still be on their way to the disk


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    spec: TokenizerSpec
    keys: tuple[str, ...]
    append_eod: bool
    special: bool  # put the tokenizer's own tokens around each text
    spool_dir: Path
    separator: str | None = None  # makes one text of all keys


class Encoder:
    """Turns tasks into results with one engine."""

    def __init__(self, job: Job, engine: Engine):
        self.job, self.engine = job, engine
        self.dtype = np.dtype(job.spec.dtype)
        self.unwritten: deque[list[Tokens]] = deque()  # of results that the parent has, oldest first
        around = job.spec.prefix + job.spec.suffix if job.special else ()
        self.eod_around = around.count(-1 if job.spec.eod is None else job.spec.eod)

    def __call__(self, task: Task | Place) -> Result | None:
        if isinstance(task, Place):
            self._write(task)
            return None
        result = self.encode(task)
        self.unwritten.append(result.tokens)
        return replace(result, tokens=[tokens.without_data() for tokens in result.tokens])

    def encode(self, task: Task) -> Result:
        if isinstance(task, LinesInFile):
            return self._giant(task) if task.giant else self._lines(_read(task))
        if isinstance(task, Lines):
            return self._lines(task.data)
        if isinstance(task, TextFile):
            return self._text(task.path)
        if isinstance(task, Kept):
            return self._kept(task)
        assert isinstance(task, Rows)
        return self._rows(task.columns)

    def _write(self, place: Place) -> None:
        for tokens, (path, offset) in zip(self.unwritten.popleft(), place.files, strict=True):
            with path.open("r+b", buffering=0) as out:
                out.seek(offset)
                if tokens.spool is not None:
                    with tokens.spool.open("rb") as spool:
                        shutil.copyfileobj(spool, out, 1 << 20)
                    tokens.spool.unlink()
                view = memoryview(tokens.data)
                while view:
                    view = view[out.write(view) :]
                # The disk begins now, not at the parent's fsync when everybody else is done; and what is on it by now
                # leaves the page cache, so that the next tokens reuse its memory: memory new to the kernel costs more.
                begin = max(0, offset - WRITTEN_BEHIND)
                os.posix_fadvise(out.fileno(), begin, offset + tokens.size - begin, os.POSIX_FADV_DONTNEED)

    def _lines(self, data: bytes) -> Result:
        columns, rejects, count = parse_lines(data, self.job.keys)
        return Result([self._encode(column) for column in self._joined(columns)], rejects, count)

    def _joined(self, columns: list[list[str]]) -> list[list[str]]:
        if self.job.separator is None:
            return columns
        return [[self.job.separator.join(texts) for texts in zip(*columns, strict=True)]]

    def _text(self, path: Path) -> Result:
        """A whole file as one document."""
        with damage_refused(path), path.open("rb") as raw, open_text(path, raw) as stream:
            head, more = stream.read(LONG_TEXT), stream.read(BLOCK)
            blocks = itertools.chain([head, more], iter(lambda: stream.read(BLOCK), b""))
            try:
                if more:
                    return Result([self._encode_stream(decoded(blocks))], [], 1)
                return Result([self._encode(["".join(decoded([head]))])], [], 1)
            except BadLine as bad:
                return Result([self._encode([])], [Reject(1, bad.reason, bad.detail)], 1)

    def _kept(self, task: Kept) -> Result:
        """Tokens that an earlier run made, counted again."""
        made = []
        for path, offset, size, lengths in task.pairs:
            with path.open("rb", buffering=0) as stream:
                data = os.pread(stream.fileno(), size, offset)
            if len(data) < size:
                raise Failure(f"{path}: shrank while it was read")
            seen = np.packbits(self._counts(np.frombuffer(data, self.dtype)) > 0).tobytes()
            made.append(Tokens(lengths, size, 0, 0, seen, data=data))  # the other counts are known of each input
        return Result(made, [], 0)

    def _rows(self, columns: list[list[Any]]) -> Result:
        rejects: list[Reject] = []
        good: list[list[str]] = [[] for _ in columns]
        for row, values in enumerate(zip(*columns, strict=True), start=1):
            try:
                texts = [_row_text(value, key) for value, key in zip(values, self.job.keys, strict=True)]
            except BadLine as bad:
                rejects.append(Reject(row, bad.reason, bad.detail))
                continue
            for column, text in zip(good, texts, strict=True):
                column.append(text)
        return Result([self._encode(column) for column in self._joined(good)], rejects, len(columns[0]))

    def _giant(self, task: LinesInFile) -> Result:
        with task.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if task.delete:
                task.path.unlink()
            start = task.start
            while data[start : start + len(BOM)] == BOM:
                start += len(BOM)
            try:
                values = read_giant(data, start, task.end, self.job.keys)
                streams: list[Iterable[str]] = [[v] if isinstance(v, str) else v.pieces() for v in values]
                if self.job.separator is not None:
                    between = [[self.job.separator]] * len(streams)
                    pairs = zip(between, streams, strict=True)
                    streams = [itertools.chain.from_iterable(part for pair in pairs for part in pair)]
                    next(iter(streams[0]))  # the separator before the first
                tokens = [self._encode_stream(stream) for stream in streams]
            except BadLine as bad:
                empty = [self._encode([]) for _ in self._joined([[] for _ in self.job.keys])]
                return Result(empty, [Reject(1, bad.reason, bad.detail)], 1)
        return Result(tokens, [], 1)

    def _encode(self, texts: list[str]) -> Tokens:
        """Tokens of whole texts in a row."""
        if any(len(text) > LONG_TEXT for text in texts):
            return self._encode_with_long(texts)
        ids, lengths = self.engine.encode(texts, self.job.special)
        return self._pack(ids, lengths, utf8_size(texts))

    def _encode_with_long(self, texts: list[str]) -> Tokens:
        """As `_encode`, with the long texts cut; keeps the order."""
        ids, lengths = [], []
        for text in texts:
            parts = self._long_ids([text])
            ids += parts
            lengths.append(sum(map(len, parts)))
        flat = np.concatenate(ids) if ids else np.empty(0, np.uint32)
        return self._pack(flat, np.array(lengths, np.int64), utf8_size(texts))

    def _long_ids(self, stream: Iterable[str]) -> list[np.ndarray]:
        spec, special = self.job.spec, self.job.special
        around = [np.array(ids if special else (), np.uint32) for ids in (spec.prefix, spec.suffix)]
        inner = [self.engine.encode([piece], False)[0] for piece in pieces(stream, self._plain_ids)]
        return [around[0], *inner, around[1]]

    def _plain_ids(self, text: str) -> list[int]:
        return self.engine.encode([text], False)[0].tolist()

    def _pack(self, ids: np.ndarray, lengths: np.ndarray, utf8_bytes: int) -> Tokens:
        """Add the end-of-document token to every text that has tokens (Megatron adds none to an empty one)."""
        eod, documents = self.job.spec.eod, int((lengths > 0).sum())
        counts = self._counts(ids)
        inside = 0 if eod is None else int(counts[eod]) - self.eod_around * len(lengths)
        if not self.job.append_eod:
            return self._tokens(lengths, ids.astype(self.dtype), utf8_bytes, inside, counts)
        counts[eod] += documents
        full = lengths + (lengths > 0)
        out = np.empty(len(ids) + documents, self.dtype)
        is_text = np.ones(len(out), bool)
        ends = np.cumsum(full)[lengths > 0] - 1
        is_text[ends] = False
        out[ends] = eod
        out[is_text] = ids
        return self._tokens(full, out, utf8_bytes, inside, counts)

    def _tokens(self, lengths: np.ndarray, ids: np.ndarray, utf8_bytes: int, inside: int, counts: np.ndarray) -> Tokens:
        sizes, seen = lengths.astype(np.int32).tobytes(), np.packbits(counts > 0).tobytes()
        return Tokens(sizes, ids.nbytes, utf8_bytes, inside, seen, data=ids.data.cast("B"))

    def _counts(self, ids: np.ndarray) -> np.ndarray:
        """How often each id of the vocabulary is there."""
        return np.bincount(ids, minlength=self.job.spec.largest_id + 1)

    def _encode_stream(self, stream: Iterable[str]) -> Tokens:
        """One document of any length; its tokens go to a file."""
        spec, special = self.job.spec, self.job.special
        count = utf8_bytes = inside = 0
        counts = self._counts(np.empty(0, np.uint32))

        def measured() -> Iterable[str]:
            nonlocal utf8_bytes
            for part in stream:
                utf8_bytes += utf8_size([part])
                yield part

        def arrays() -> Iterable[np.ndarray]:
            nonlocal inside
            yield np.array(spec.prefix if special else (), np.uint32)
            for piece in pieces(measured(), self._plain_ids):
                ids = self.engine.encode([piece], False)[0]
                inside += int((ids == spec.eod).sum())
                yield ids
            yield np.array(spec.suffix if special else (), np.uint32)

        descriptor, name = tempfile.mkstemp(prefix="tokens-", dir=self.job.spool_dir)
        with os.fdopen(descriptor, "wb") as spool:
            for ids in arrays():
                counts += self._counts(ids)
                count += len(ids)
                spool.write(ids.astype(self.dtype).tobytes())
            if self.job.append_eod and count:
                spool.write(np.array([spec.eod], self.dtype).tobytes())
                counts[spec.eod] += 1
                count += 1
        lengths = np.array([count], np.int32).tobytes()
        size = count * self.dtype.itemsize
        return Tokens(lengths, size, utf8_bytes, inside, np.packbits(counts > 0).tobytes(), spool=Path(name))


def _read(task: LinesInFile) -> bytes:
    with task.path.open("rb", buffering=0) as stream:
        stream.seek(task.start)
        wanted, parts = task.end - task.start, []
        while wanted > 0:
            part = stream.read(wanted)
            if not part:
                raise Failure(f"{task.path}: shrank while it was read")
            parts.append(part)
            wanted -= len(part)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    return data.removeprefix(BOM)  # at the start of a file; parse_lines takes care of others, more slowly


def _row_text(value: Any, key: str) -> str:
    if isinstance(value, bytes):  # a string that pyarrow could not decode
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadLine("invalid UTF-8", f"byte 0x{value[error.start]:02x} at position {error.start + 1}") from None
    return check_text(value, key)
