"""Multistream dumps: a bz2 file of many streams of 100 pages each, and an index `offset:page id:title` of them.

Format: https://meta.wikimedia.org/wiki/Data_dumps/Dump_format#Multistream_dumps
"""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.utils.errors import Failure

READ = 1 << 16
PAGES = 100  # of a stream, where no index tells


@dataclass(frozen=True)
class Stream:
    """Compressed bytes `offset` to `offset + length` of the file hold `pages` pages; or their XML itself is in `data`.

    `remedy`: what helps where they are damaged.
    """

    offset: int
    length: int
    pages: int
    data: bytes = b""
    remedy: str = "delete the file and run the same command again, or take another --date"

    def xml(self, articles: Path) -> Iterator[bytes]:
        """The XML in pieces; raises OSError or EOFError."""
        return iter((self.data,)) if self.data else decompress(articles, self.offset, self.length)


def read_index(index: Path, articles: Path) -> list[Stream]:
    """The streams of `articles` in order; raises Failure for an index that isn't one."""
    starts: list[int] = []
    counts: list[int] = []
    last = b""
    try:
        with bz2.open(index, "rb") as lines:
            for line in lines:
                offset = line[: line.index(b":")]
                if offset == last:
                    counts[-1] += 1
                    continue
                start = int(offset)
                if starts and start <= starts[-1]:
                    raise ValueError(f"offset {start} comes after {starts[-1]}")
                starts.append(start)
                counts.append(1)
                last = offset
    except (ValueError, OSError, EOFError) as error:
        raise Failure(
            f"{index}: line {sum(counts) + 1}: {error}; delete the file and run the same command again"
        ) from None
    size = articles.stat().st_size
    if not starts or starts[-1] >= size:
        raise Failure(
            f"{index}: does not describe {articles.name} ({size} bytes); delete both and run the command again"
        )
    ends = [*starts[1:], size]
    return [Stream(s, e - s, n) for s, e, n in zip(starts, ends, counts, strict=True)]


def decompress(articles: Path, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of the one bz2 stream at `offset`, piece by piece; raises OSError or EOFError if it is broken."""
    decompressor = bz2.BZ2Decompressor()
    with articles.open("rb") as stream:
        stream.seek(offset)
        left = length
        while not decompressor.eof:
            packed = b""
            if decompressor.needs_input:
                packed = stream.read(min(READ, left))
                left -= len(packed)
                if not packed:
                    raise EOFError("the compressed stream ends early")
            yield decompressor.decompress(packed, max_length=1 << 20)
