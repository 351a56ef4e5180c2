"""One output pair: its .bin, which the workers fill, and its .idx."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from nemo_workflow.data.indexed_dataset import HEADER, MAGIC, VERSION
from nemo_workflow.preprocess.messages import Tokens

BLOCK = 1 << 20  # lengths at a time
DTYPE_CODES = {"int32": 4, "uint16": 8}


class PairWriter:
    """One .bin and, at the end, its .idx; documents come in order. Byte-identical to megatron-core's IndexedDatasetBuilder."""

    def __init__(self, folder: Path, stem: str, dtype: str, size: int = 0, documents: int = 0):
        """Go on after `size` bytes of tokens and `documents` lengths that are in the files, or begin."""
        self.bin_path, self.idx_path = folder / f"{stem}.bin", folder / f"{stem}.idx"
        self.lengths_path = folder / f"{stem}.lengths"
        self.dtype = np.dtype(dtype)
        self.size = size
        self._bin, self._lengths = (
            self._opened(*end) for end in ((self.bin_path, size), (self.lengths_path, 4 * documents))
        )

    @staticmethod
    def _opened(path: Path, size: int) -> IO[bytes]:
        stream = path.open("r+b" if size else "w+b")
        stream.truncate(size)
        stream.seek(size)
        return stream

    def add(self, tokens: Tokens) -> tuple[Path, int]:
        """Take the next documents' lengths; returns where a worker is to write their tokens."""
        place = self.bin_path, self.size
        self._lengths.write(tokens.lengths)
        self.size += tokens.size
        return place

    def kept(self) -> Iterator[Tokens]:
        """What is in the files so far, counted again: lengths and the ids that are used, nothing else."""
        at = 0
        for lengths in self._blocks():
            size = int(lengths.sum(dtype=np.int64)) * self.dtype.itemsize
            seen = np.zeros(1 << 16, bool)
            for start in range(at, at + size, 8 * BLOCK):
                count = min(8 * BLOCK, at + size - start)
                ids = np.frombuffer(os.pread(self._bin.fileno(), count, start), self.dtype)
                if len(ids) and int(ids.max()) >= len(seen):
                    seen = np.concatenate([seen, np.zeros(int(ids.max()) + 1 - len(seen), bool)])
                seen[ids] = True
            yield Tokens(lengths.tobytes(), size, 0, 0, np.packbits(seen).tobytes())
            at += size
        self._lengths.seek(0, os.SEEK_END)

    def flush(self) -> None:
        if not self._lengths.closed:
            self._lengths.flush()

    def sync(self) -> None:
        for stream in (self._bin, self._lengths):
            if not stream.closed:
                stream.flush()
                os.fsync(stream.fileno())

    def finish(self) -> None:
        """Write the .idx, after the workers have written the .bin. The run's commit puts both on disk."""
        self._bin.close()
        with self.idx_path.open("wb") as idx:
            self._write_idx(idx)
        self._lengths.close()

    def _blocks(self) -> Iterator[np.ndarray]:
        self._lengths.seek(0)
        while block := self._lengths.read(4 * BLOCK):
            yield np.frombuffer(block, np.int32)

    def _write_idx(self, idx: IO[bytes]) -> None:
        documents = sequences = 0
        for lengths in self._blocks():
            documents += len(lengths)
            sequences += int((lengths > 0).sum())
        code = DTYPE_CODES[self.dtype.name]
        idx.write(HEADER.pack(MAGIC, VERSION, code, sequences, documents + 1))
        for lengths in self._blocks():
            idx.write(lengths[lengths > 0].tobytes())
        pointer = 0
        for lengths in self._blocks():
            sizes = lengths[lengths > 0].astype(np.int64) * self.dtype.itemsize
            ends = pointer + np.cumsum(sizes)
            idx.write((ends - sizes).tobytes())
            pointer = int(ends[-1]) if len(ends) else pointer
        idx.write(struct.pack("<q", 0))
        boundary = 0
        for lengths in self._blocks():
            boundaries = boundary + np.cumsum(lengths > 0, dtype=np.int64)
            idx.write(boundaries.tobytes())
            boundary = int(boundaries[-1])
