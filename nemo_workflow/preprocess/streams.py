"""Bytes of an input file, decompressed."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nemo_workflow.utils.errors import Refusal

BLOCK = 1 << 20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LARGEST_WINDOW = 1 << 27  # of zstd's decoder unless it is told otherwise, as is pyarrow's


class DamagedError(ValueError):
    """Compressed data that ends early or is not what it says."""


class _Members(io.RawIOBase):
    """The contents of the members that a compressed file consists of, one after another.

    What follows the last member is passed over, as gzip does: zeros in silence, other bytes with a word to `warn`.
    """

    def __init__(self, raw: IO[bytes], make: Callable[[], Any], magic: bytes, warn: Callable[[str], None]):
        super().__init__()
        self.raw, self.make, self.magic, self.warn = raw, make, magic, warn
        self.decoder: Any = make()
        self.rest = b""  # read, but not given to the decoder yet
        self.ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """About `size` bytes, none at the end; raises DamagedError."""
        parts, length = [], 0
        while not self.ended and (size < 0 or length < size):
            part = self._next()
            parts.append(part)
            length += len(part)
        return b"".join(parts)

    def _next(self) -> bytes:
        if self.decoder.eof:
            self._next_member()
            return b""
        block = b""
        if self.decoder.needs_input:
            block = self.rest or self.raw.read(BLOCK)
            self.rest = b""
            if not block:
                raise DamagedError("the file ends before its data does")
        try:
            out = self.decoder.decompress(block, BLOCK)
        except (zlib.error, lzma.LZMAError, OSError) as error:
            raise DamagedError(str(error)) from None
        if self.decoder.eof:
            self.rest = self.decoder.unused_data
        return out

    def _next_member(self) -> None:
        found = self.rest
        while not found.strip(b"\0"):  # padding, as on tapes and in .xz
            found = self.raw.read(BLOCK)
            if not found:
                self.ended = True
                return
        found = found.lstrip(b"\0")
        found += self.raw.read(len(self.magic)) if len(found) < len(self.magic) else b""
        if found.startswith(self.magic):
            self.decoder, self.rest = self.make(), found
        else:
            self.ended = True
            self.warn("the data after the end of the compressed data was ignored")


class _Gzip:
    """zlib's decompressor with the face of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    eof = property(lambda self: self._inner.eof)
    unused_data = property(lambda self: self._inner.unused_data)
    needs_input = property(lambda self: not self._inner.unconsumed_tail)

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, most)


KINDS: dict[str, tuple[Callable[[], Any], bytes]] = {
    ".gz": (_Gzip, b"\x1f\x8b"),
    ".bz2": (bz2.BZ2Decompressor, b"BZh"),
    ".xz": (lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ), b"\xfd7zXZ\0"),
}


def open_text(path: Path, raw: IO[bytes] | None = None, warn: Callable[[str], None] = lambda _: None) -> IO[bytes]:
    """The file's bytes, decompressed as its ending says; `raw` is the open file, if the caller wants to follow it."""
    raw = raw or path.open("rb")
    ending = path.suffix.lower()
    if ending in KINDS:
        make, magic = KINDS[ending]
        return _Members(raw, make, magic, warn)  # type: ignore[return-value]
    if ending in (".zst", ".zstd"):
        _check_window(path, raw)
        import pyarrow  # unlike zstandard's reader, its one takes a file that was cut off for damaged

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")
    return raw


def _check_window(path: Path, raw: IO[bytes]) -> None:
    """Refuse a zstd frame whose window the decoder will not hold (`zstd --long=28` and above).

    RFC 8878, 3.1.1.1: after the magic number a descriptor; unless bit 5 is set, a byte of exponent and mantissa follows.
    """
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(ZSTD_MAGIC) and len(head) == 6 and not head[4] & 0x20:
        exponent, mantissa = head[5] >> 3, head[5] & 7
        window = (1 << (10 + exponent)) * (8 + mantissa) // 8
        if window > LARGEST_WINDOW:
            raise Refusal(f"{path}: {_too_wide(f'a window of {window >> 20} MB, more than')}")


def _too_wide(window: str) -> str:
    return (
        f"zstandard data with {window} the {LARGEST_WINDOW >> 20} MB that are read here; "
        "write it again: zstd -dc --long=31 FILE | zstd -o NEW.zst"
    )


def said_of_damage(error: Exception) -> str | None:
    """More than the decoder says, where more is known."""
    if "requires too much memory" in str(error):  # a frame further on than the first
        return _too_wide("a window of more than")
    if (isinstance(error, DamagedError) and "ends before" in str(error)) or "Truncated compressed" in str(error):
        return f"damaged ({error}); get the file again"
    return None


@contextmanager
def damage_refused(path: Path) -> Iterator[None]:
    """A damaged compressed file or Parquet file is for the user to fix."""
    try:
        yield
    except DamagedError as error:
        kind = {".gz": "gzip data", ".bz2": "bzip2 data", ".xz": "xz data"}.get(path.suffix.lower(), "data")
        raise Refusal(f"{path}: damaged {kind} ({error}); get the file again") from None
    except Exception as error:
        # pyarrow raises its own classes, and OSError without a number
        is_arrow = type(error).__module__.startswith("pyarrow") or (isinstance(error, OSError) and error.errno is None)
        if not is_arrow:
            raise
        said = said_of_damage(error) or f"damaged ({str(error).splitlines()[0]}); get the file again"
        raise Refusal(f"{path}: {said}") from None
