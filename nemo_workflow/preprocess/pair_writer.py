"""One output pair: its .bin, which the workers fill, and its .idx."""

from __future__ import annotations

import os
import struct
import tempfile
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

    def __init__(self, folder: Path, stem: str, dtype: str):
        self.bin_path, self.idx_path = folder / f"{stem}.bin", folder / f"{stem}.idx"
        self.dtype = np.dtype(dtype)
        self._bin: IO[bytes] = self.bin_path.open("wb")
        self.size = 0
        self._lengths: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed in finish()

    def add(self, tokens: Tokens) -> tuple[Path, int]:
        """Take the next documents' lengths; returns where a worker is to write their tokens."""
        place = self.bin_path, self.size
        self._lengths.write(tokens.lengths)
        self.size += tokens.size
        return place

    def finish(self) -> None:
        """Write the .idx, after the workers have written the .bin; both files are on disk afterwards."""
        os.fsync(self._bin.fileno())
        self._bin.close()
        with self.idx_path.open("wb") as idx:
            self._write_idx(idx)
            idx.flush()
            os.fsync(idx.fileno())
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
