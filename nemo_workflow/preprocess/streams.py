"""Bytes of an input file, decompressed. Light at import."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nemo_workflow.utils.errors import Refusal

BLOCK = 1 << 20


def open_text(path: Path, raw: IO[bytes] | None = None) -> IO[bytes]:
    """The file's bytes, decompressed as its ending says; `raw` is the open file, if the caller wants to follow it."""
    raw = raw or path.open("rb")
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw, mode="rb")  # type: ignore[return-value]
    if name.endswith((".zst", ".zstd")):
        import pyarrow  # unlike zstandard's reader, its one takes a file that was cut off for damaged

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")
    return raw


@contextmanager
def damage_refused(path: Path) -> Iterator[None]:
    """A damaged compressed file or Parquet file is the user's to mend."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Refusal(f"{path}: damaged gzip data ({error}); get the file again") from None
    except Exception as error:
        # pyarrow raises its own classes, and OSError without a number
        is_arrow = type(error).__module__.startswith("pyarrow") or (isinstance(error, OSError) and error.errno is None)
        if not is_arrow:
            raise
        raise Refusal(f"{path}: damaged ({str(error).splitlines()[0]}); get the file again") from None
