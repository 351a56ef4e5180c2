"""Pages to JSON Lines: the streams of a dump in worker processes, their lines in the dump's order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from nemo_workflow.utils.errors import Failure
from nemo_workflow.wikipedia.journal import Counts, Rules
from nemo_workflow.wikipedia.multistream import Stream, decompress
from nemo_workflow.wikipedia.pages import CATEGORY, FILE, MAIN, BrokenPage, RawPage, SiteInfo, read_pages, read_siteinfo
from nemo_workflow.wikipedia.wikitext.cleaner import Cleaner, variants

# What may be with the workers or wait for its turn at once; this bounds the memory.
STREAMS_A_WORKER = 2
COMPRESSED_BYTES = 16 << 20
SPILL = 4 << 20
SPILL_PREFIX = ".spilled-"


@dataclass
class Extracted:
    """What a worker makes of one stream: JSON lines, counts, a note for each broken page."""

    lines: list[bytes] = field(default_factory=list)
    size: int = 0  # bytes of `lines`
    spilled: Path | None = None  # the lines before them, if they were too many to hand over
    counts: Counts = field(default_factory=Counts)
    notes: list[str] = field(default_factory=list)

    def add(self, line: bytes, folder: Path) -> None:
        """Append a line; spill into a file in `folder` when they get too many."""
        self.lines.append(line)
        self.size += len(line)
        if self.size > SPILL:
            if self.spilled is None:
                handle, name = tempfile.mkstemp(prefix=SPILL_PREFIX, dir=folder)
                os.close(handle)
                self.spilled = Path(name)
            with self.spilled.open("ab") as stream:
                stream.writelines(self.lines)
            self.lines, self.size = [], 0

    def take(self) -> Iterator[bytes]:
        """All lines in order, once."""
        if self.spilled:
            with self.spilled.open("rb") as stream:
                yield from stream
            self.spilled.unlink()
        yield from self.lines

    def keep_first(self, limit: int) -> None:
        """Drop the lines after the first `limit`."""
        self.lines = list(self.take())[:limit]
        self.spilled = None
        self.counts.kept = len(self.lines)
        self.counts.characters = sum(len(orjson.loads(line)["text"]) for line in self.lines)


def _pages(articles: Path, stream: Stream) -> Iterator[RawPage | BrokenPage]:
    """The pages of a stream; what goes wrong here is the file's fault, not that of the disk that is written to."""
    try:
        yield from read_pages(partial(stream.xml, articles))
    except (OSError, EOFError) as error:
        raise Failure(f"{articles}: the stream at byte {stream.offset}: {error}; {stream.remedy}") from None


class Extractor:
    """Turns streams into JSON lines; one a worker."""

    def __init__(self, site: SiteInfo, rules: Rules):
        self.site = site
        self.rules = rules
        preferred = variants.SIMPLIFIED if rules.convert == "t2s" else variants.TRADITIONAL
        self.cleaner = Cleaner(site.names(FILE, CATEGORY), preferred if variants.converts(site.url) else ())
        self.convert: Callable[[str], str] | None = None
        if rules.convert != "none":
            import opencc

            self.convert = opencc.OpenCC(rules.convert).convert

    def stream(self, articles: Path, stream: Stream) -> Extracted:
        """Extract one stream of a multistream file; raises Failure for bz2 that doesn't decompress, OSError for a full disk."""
        made = Extracted()
        for page in _pages(articles, stream):
            made.counts.read += 1
            if isinstance(page, BrokenPage):
                made.counts.broken += 1
                made.notes.append(
                    f"{articles.name}: page {page.title!r} in the stream at byte {stream.offset}: {page.reason}; "
                    "left out; a later --date may have it whole"
                )
            elif line := self.page(page, made.counts):
                made.add(line, articles.parent)
        return made

    def page(self, page: RawPage, counts: Counts) -> bytes | None:
        """The JSON line of a page, or None for one to leave out; adds it to `counts`."""
        if page.redirect:
            counts.redirects += 1
            return None
        if page.namespace != MAIN or page.model != "wikitext":
            counts.not_articles += 1
            return None
        text = self.cleaner.clean(page.text)
        if self.convert:
            text = self.convert(text)
        if len(text) < max(1, self.rules.min_chars):
            counts.short += 1
            return None
        counts.kept += 1
        counts.characters += len(text)
        record: dict[str, Any] = {"text": text}
        if self.rules.keep_metadata:
            record |= {
                "id": page.id,
                "title": page.title,
                "url": self.site.url + quote(page.title.replace(" ", "_"), safe="/:(),;@!$*'~"),
            }
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


_extractor: Extractor


def _start_worker(site: SiteInfo, rules: Rules) -> None:
    global _extractor
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    _extractor = Extractor(site, rules)


def _die_with(sentinel: int) -> None:
    """A killed parent can't tell its workers to end, and they would wait for it for ever."""
    wait([sentinel])
    os._exit(1)


def _extract(articles: Path, stream: Stream) -> Extracted:
    return _extractor.stream(articles, stream)


def site_of(articles: Path, streams: list[Stream]) -> SiteInfo:
    """What the head of a multistream file says about its wiki; raises Failure."""
    try:
        return read_siteinfo(b"".join(decompress(articles, 0, streams[0].offset)))
    except (ValueError, OSError, EOFError) as error:
        raise Failure(f"{articles}: {error}; delete the file and run the same command again") from None


class _UntilFailure:
    """An iterator that ends where another fails."""

    def __init__(self, of: Iterable[Stream]):
        self._of = iter(of)
        self.failure: Failure | None = None

    def __iter__(self) -> Iterator[Stream]:
        return self

    def __next__(self) -> Stream:
        try:
            return next(self._of)
        except Failure as failure:
            self.failure = failure
            raise StopIteration from None


class Workers:
    """Processes that extract streams. They share nothing with this one: its download threads could hold locks at a fork."""

    def __init__(self, count: int, site: SiteInfo, rules: Rules):
        self.most_streams = STREAMS_A_WORKER * count
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(count, context, _start_worker, (site, rules))

    def extract(self, articles: Path, streams: Iterable[Stream]) -> Iterator[Extracted]:
        """What they make of `streams`, in order; raises Failure, where it comes of `streams` after what came before it."""
        waiting = _UntilFailure(streams)
        todo = deque(islice(waiting, 1))
        running: deque[tuple[Future[Extracted], int]] = deque()
        size = 0
        try:
            while todo or running:
                while todo and (
                    not running or (len(running) < self.most_streams and size + todo[0].length <= COMPRESSED_BYTES)
                ):
                    stream = todo.popleft()
                    running.append((self.pool.submit(_extract, articles, stream), stream.length))
                    size += stream.length
                    todo.extend(islice(waiting, 1))
                future, length = running.popleft()
                yield future.result()
                size -= length
            if waiting.failure:
                raise waiting.failure
        except BrokenProcessPool:
            raise Failure(
                f"{articles}: a worker process was killed, perhaps because memory ran out; "
                "the same command continues from here, with a lower --workers if you like"
            ) from None
        finally:
            for future, _ in running:
                future.cancel()

    def stop(self) -> None:
        """Begin nothing more, and wait for the few streams that have begun.

        Python's own end wakes the pool's thread, and fails where that is just closing its pipe: so it must have ended by then.
        """
        self.pool.shutdown(wait=True, cancel_futures=True)
