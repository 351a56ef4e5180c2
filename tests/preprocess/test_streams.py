"""Compressed files as people have them: joined, padded, with bytes behind, cut off."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess

import pyarrow
import pytest

from nemo_workflow.preprocess import streams
from nemo_workflow.preprocess.streams import DamagedError, open_text
from nemo_workflow.utils.errors import Refusal

TEXT = b"".join(b'{"text": "line %d"}\n' % number for number in range(5000))
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture(params=PACKERS)
def packed(request, tmp_path):
    """A function that writes a compressed file of the given bytes and reads it; and how to compress."""
    warnings: list[str] = []

    def read(data: bytes, size: int = -1) -> tuple[bytes, list[str]]:
        path = tmp_path / f"a.jsonl{request.param}"
        path.write_bytes(data)
        warnings.clear()
        with open_text(path, warn=warnings.append) as stream:
            parts = list(iter(lambda: stream.read(size), b""))
        return b"".join(parts), list(warnings)

    return read, PACKERS[request.param]


def test_members_in_a_row(packed):
    read, pack = packed
    assert read(pack(TEXT[:999]) + pack(b"") + pack(TEXT[999:])) == (TEXT, [])
    assert read(pack(TEXT), 700) == (TEXT, [])


def test_padding_and_other_bytes_behind(packed, monkeypatch):
    read, pack = packed
    assert read(pack(TEXT) + bytes(512)) == (TEXT, [])
    assert read(pack(TEXT[:999]) + bytes(512) + pack(TEXT[999:])) == (TEXT, [])
    text, [warning] = read(pack(TEXT) + b"signature")
    assert text == TEXT and "was ignored" in warning
    monkeypatch.setattr(streams, "BLOCK", 5)  # every member and its magic number are split between two reads
    assert read(pack(TEXT[:99]) + bytes(7) + pack(TEXT[99:300]) + b"s") == (TEXT[:300], [warning])


def test_a_file_that_was_cut_off(packed):
    read, pack = packed
    with pytest.raises(DamagedError, match="ends before its data"):
        read(pack(TEXT)[:-30])
    with pytest.raises(DamagedError):
        read(b"no such data")


def test_much_text_from_few_bytes_comes_in_pieces(packed, tmp_path):
    read, pack = packed
    read(pack(b""))
    [path] = tmp_path.iterdir()
    path.write_bytes(pack(bytes(50 << 20)))
    with open_text(path) as stream:
        assert len(stream.read(1 << 20)) < 4 << 20


@pytest.mark.parametrize("long", [27, 28, 31])
def test_zstd_windows(long, tmp_path):
    """The frame's header is what `zstd --long` writes; the library here writes no such windows."""
    frame = pyarrow.Codec("zstd").compress(TEXT, asbytes=True)
    assert frame[4] & 0x20  # a single segment, without a window of its own
    path = tmp_path / "a.jsonl.zst"
    header = streams.ZSTD_MAGIC + bytes([0x00, (long - 10) << 3])
    path.write_bytes(header + b"\x01\x00\x00")  # one empty block, the last
    if long == 27:
        assert open_text(path).read() == b""
    else:
        with pytest.raises(
            Refusal, match=rf"a.jsonl.zst: zstandard data with a window of {1 << (long - 20)} MB.*zstd -dc --long=31"
        ):
            open_text(path)


def test_gzip_reads_what_gzip_reads(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(TEXT) + b"trailing")
    done = subprocess.run(["gzip", "-dc", path], capture_output=True, check=False)
    assert b"trailing garbage ignored" in done.stderr
    assert open_text(path).read() == done.stdout
