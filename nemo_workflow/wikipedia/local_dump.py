"""A dump that lies on disk, with or without its index: as a multistream's streams, or read from its beginning.

Dumps that are no multistream are one long XML file (pages-articles.xml, also packed), which this process reads and cuts
between pages; a multistream's streams are found by the magic number that each begins with.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.wikipedia.multistream import PAGES, Stream, decompress
from nemo_workflow.wikipedia.pages import SiteInfo, read_siteinfo

# A stream: "BZh", the block size, and pi, with which its first block begins.
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
_OPENERS = {b"BZh": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open}
_REFUSED = {b"7z\xbc\xaf": "7z x", b"(\xb5/\xfd": "zstd -d"}
_PAGE, _END = b"<page>", b"</page>"
_LAST = b"</mediawiki>"
DAMAGED = "the file is damaged or incomplete: download it again"
HEAD = 1 << 20  # bytes in which <siteinfo> must end
BATCH = 1 << 20  # bytes of XML that a worker gets at a time
READ = 1 << 18
ENDINGS = (".xml", ".bz2", ".gz", ".xz")


class LocalDump:
    """A dump's file; raises Refusal for one that is none."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as stream:
                begin = stream.read(8)
        except OSError as error:
            raise Refusal(f"--dump {path}: {error.strerror}; name a dump's file") from None
        for magic, how in _REFUSED.items():
            if begin.startswith(magic):
                raise Refusal(f"--dump {path}: not a kind that is read here; unpack it first: {how} {path.name}")
        try:
            with self._open() as stream:
                head = stream.read(HEAD)
            self.site: SiteInfo = read_siteinfo(head)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise Refusal(f"--dump {path}: damaged at its beginning ({error}); download it again") from None
        except ValueError as error:
            raise Refusal(
                f"--dump {path}: not a MediaWiki dump of pages ({error}); such a file is called …-pages-articles….xml.bz2"
            ) from None

    @property
    def name(self) -> str:
        """Without endings."""
        path = self.path
        while path.suffix.lower() in ENDINGS:
            path = path.with_suffix("")
        return path.name

    def _open(self) -> IO[bytes]:
        with self.path.open("rb") as stream:
            begin = stream.read(8)
        opener = next((opener for magic, opener in _OPENERS.items() if begin.startswith(magic)), None)
        return opener(self.path, "rb") if opener else self.path.open("rb")  # type: ignore[return-value,operator]

    def streams(self) -> Iterator[Stream]:
        """All pages in order; raises Failure for a file that is damaged further on."""
        starts = self._starts()
        if starts:
            ends = [*starts[1:], self.path.stat().st_size]
            for start, end in zip(starts, ends, strict=True):
                yield Stream(start, end - start, PAGES, remedy=DAMAGED)
            self._check_end(self._beginning(starts[-1]))  # a stream of its own
            return
        try:
            yield from self._cut()
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise Failure(f"{self.path}: {error}; {DAMAGED}") from None

    def _starts(self) -> list[int]:
        """Where the streams of pages begin; none where the file is no multistream."""
        with self.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not _STREAM.match(data):
                return []
            starts = [found.start() for found in _STREAM.finditer(data)]
        # other packers begin a stream anywhere
        if len(starts) < 2 or _PAGE in self._beginning(0) or not self._beginning(starts[1]).lstrip().startswith(_PAGE):
            return []
        return starts[1:]

    def _beginning(self, offset: int) -> bytes:
        try:
            pieces = decompress(self.path, offset, self.path.stat().st_size - offset)
            return next(filter(None, pieces), b"")
        except (OSError, EOFError):
            return b""

    def _cut(self) -> Iterator[Stream]:
        with self._open() as stream:
            pending, number = b"", 0
            while block := stream.read(READ):
                pending += block
                if len(pending) < BATCH:
                    continue
                end = pending.rfind(_END) + len(_END)
                if end >= len(_END):
                    yield self._batch(number, pending[:end])
                    pending, number = pending[end:], number + 1
            if _PAGE in pending:
                yield self._batch(number, pending)
            self._check_end(pending)

    def _check_end(self, xml: bytes) -> None:
        """Raise Failure where the file ends before the dump does: a disk that was full, a copy that broke off."""
        if not xml.rstrip().endswith(_LAST):
            raise Failure(
                f"{self.path}: it ends without {_LAST.decode()}; {DAMAGED}. --max-pages N takes the first N articles of it all the same"
            )

    @staticmethod
    def _batch(number: int, xml: bytes) -> Stream:
        xml = xml[max(0, xml.find(_PAGE)) :]
        end = xml.rfind(_END) + len(_END)
        whole = xml[:end] if end >= len(_END) and _PAGE not in xml[end:] else xml
        return Stream(number, len(whole), whole.count(_PAGE), whole)
