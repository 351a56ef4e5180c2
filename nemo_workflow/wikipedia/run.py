"""The work of download_wiki.py: find the dump, fetch its parts, take the text out of each as soon as it is there."""

from __future__ import annotations

import fcntl
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nemo_workflow.utils.console import Meter, counted, human_bytes, human_count, human_time
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import script
from nemo_workflow.wikipedia.download import Downloads, Tally
from nemo_workflow.wikipedia.extract import SPILL_PREFIX, Workers, site_of
from nemo_workflow.wikipedia.http import Client
from nemo_workflow.wikipedia.journal import Journal, Rules
from nemo_workflow.wikipedia.local_dump import LocalDump
from nemo_workflow.wikipedia.multistream import Stream, read_index
from nemo_workflow.wikipedia.pages import SiteInfo
from nemo_workflow.wikipedia.site import Dump, Part, RemoteFile, Site


@dataclass(frozen=True)
class Request:
    """Which dump to fetch, from where, and with how many workers."""

    language: str
    date: str | None
    base_url: str
    contact: str | None
    url_limit: int | None
    workers: int
    overwrite: bool
    project: str = "wikipedia"

    def client(self, stop: threading.Event | None = None) -> Client:
        about = f"; {self.contact}" if self.contact else ""
        return Client(f"nemo-workflow/0.1.0 (download_wiki.py: text for language models{about}) python-requests", stop)


def run(request: Request, rules: Rules, folder: Path) -> None:
    """Make folder/NAME.jsonl; raises Refusal, Failure, OSError."""
    with request.client() as client:
        dump = Site(client, request.base_url).find(request.language, request.date, request.project)
    parts = dump.parts[: request.url_limit]
    key = {"dump": dump.name, "sha1": [part.articles.sha1 for part in parts], "rules": asdict(rules)}
    _run(folder, dump.name, key, request, rules, lambda journal: DownloadWork(dump, parts, rules, request, journal))


def run_local(dump: LocalDump, request: Request, rules: Rules, folder: Path) -> None:
    """Make folder/NAME.jsonl of a dump on this disk; raises Refusal, Failure, OSError."""
    status = dump.path.stat()
    key = {
        "dump": dump.name,
        "file": {"size": status.st_size, "mtime_ns": status.st_mtime_ns},
        "rules": asdict(rules),
    }
    _run(folder, dump.name, key, request, rules, lambda journal: LocalWork(dump, rules, request, journal))


def _run(
    folder: Path,
    name: str,
    key: dict[str, Any],
    request: Request,
    rules: Rules,
    work: Callable[[Journal], Work],
) -> None:
    dump_folder = folder / "dump"
    journal = Journal(folder / f"{name}.jsonl", dump_folder, key)
    if not (request.overwrite and journal.output.exists()) and journal.is_made():
        print(f"{journal.output} is already there, whole and made with these settings.")
        return
    dump_folder.mkdir(parents=True, exist_ok=True)
    with _locked(dump_folder):
        for spilled in dump_folder.glob(f"{SPILL_PREFIX}*"):  # of a call that was killed
            spilled.unlink()
        work(journal).do()
    _summary(journal, rules)


class Work:
    """Extraction, and the line that says how far it is."""

    def __init__(self, name: str, rules: Rules, request: Request, journal: Journal):
        self.name, self.rules, self.request, self.journal = name, rules, request, journal
        self.meter = Meter()
        self.pages = 0  # read in this call
        self.started = time.monotonic()

    def _why_nothing(self) -> str:
        counts = self.journal.counts
        if counts.broken and counts.broken == counts.read:
            return (
                f"none of its {counts.read} pages has a title, id, ns and revision in well-formed XML (see above); dumps from "
                "before 2012 have no <ns>: take a later one"
            )
        return f"none of its {counts.read} pages is an article of {self.rules.min_chars} characters; lower --min-chars"

    def parts(self) -> Iterator[tuple[Path, Iterable[Stream], SiteInfo]]:
        """The files from the journal's part on, each with all its streams."""
        raise NotImplementedError

    def end(self) -> None:
        """Stop what parts() has begun."""

    def do(self) -> None:
        journal = self.journal
        if journal.open():
            self.meter.note(f"Going on after {counted(journal.counts.read, 'page')}.")
        workers: Workers | None = None
        try:
            for articles, streams, site in self.parts():
                if workers is None:
                    workers = Workers(self.request.workers, site, self.rules)
                for made in workers.extract(articles, islice(streams, journal.streams, None)):
                    self.pages += made.counts.read
                    for note in made.notes:
                        self.meter.note(note)
                    limit = self.rules.max_pages
                    if limit is not None and journal.counts.kept + made.counts.kept > limit:
                        made.keep_first(limit - journal.counts.kept)
                    journal.append(made.take(), made.counts)
                    self._show()
                    if self._enough():
                        break
                journal.next_part()
            if not journal.counts.kept:
                raise Failure(f"{self.name}: {self._why_nothing()}")
            journal.finish()
        except BaseException as error:
            if not isinstance(error, OSError):  # with a full disk the last entry holds
                journal.enter()
            if isinstance(error, KeyboardInterrupt):
                self.meter.note(
                    f"Stopped after {counted(journal.counts.read, 'page')}; the same command continues from here."
                )
            raise
        finally:
            self.end()
            if workers is not None:
                workers.stop()
            self.meter.close()

    def _enough(self) -> bool:
        return self.rules.max_pages is not None and self.journal.counts.kept >= self.rules.max_pages

    def _show(self) -> None:
        seconds = max(1e-3, time.monotonic() - self.started)
        read = self.journal.counts.read
        self.meter.show(f"{self.name}: {human_count(read)} pages at {human_count(self.pages / seconds)}/s")


class LocalWork(Work):
    """Of a dump on this disk."""

    def __init__(self, dump: LocalDump, rules: Rules, request: Request, journal: Journal):
        super().__init__(dump.name, rules, request, journal)
        self.dump = dump

    def parts(self) -> Iterator[tuple[Path, Iterable[Stream], SiteInfo]]:
        if not self.journal.part:
            yield self.dump.path, self.dump.streams(), self.dump.site


class DownloadWork(Work):
    """Of a dump that is fetched meanwhile."""

    def __init__(self, dump: Dump, parts: tuple[Part, ...], rules: Rules, request: Request, journal: Journal):
        super().__init__(dump.name, rules, request, journal)
        self.of_dump = parts
        self.tally = Tally()
        self.downloads: Downloads | None = None
        self.pages_known = 0  # of the parts whose index has been read
        self.bytes_known = 0

    def parts(self) -> Iterator[tuple[Path, Iterable[Stream], SiteInfo]]:
        journal = self.journal
        todo = self.of_dump[journal.part :]
        _check_room(journal.made.parent, [file for part in todo for file in (part.index, part.articles)])
        self.downloads = Downloads(journal.made.parent, self.request.client, self.tally)
        for index, articles in self._fetched(list(todo), self.downloads):
            streams = read_index(index, articles)
            self.pages_known += sum(stream.pages for stream in streams[journal.streams :])
            self.bytes_known += articles.stat().st_size
            yield articles, streams, site_of(articles, streams)

    def end(self) -> None:
        if self.downloads is not None:
            self.downloads.stop.set()

    def _fetched(self, parts: list[Part], downloads: Downloads) -> Iterator[tuple[Path, Path]]:
        """(index, articles) of each part once it is right; with --max-pages a part is fetched only when it is needed."""
        files = [(part.index, part.articles) for part in parts]
        self.tally.total = sum(file.size for pair in files for file in pair)
        ahead = 1 if self.rules.max_pages is not None else len(files)
        waiting: list[tuple[Future[Path], Future[Path]]] = []
        for number in range(len(files)):
            if self._enough():
                return
            while len(waiting) < min(number + ahead, len(files)):
                index, articles = files[len(waiting)]
                waiting.append((downloads.submit(index), downloads.submit(articles)))
            while wait(waiting[number], timeout=0.3).not_done:
                self._show()
            yield waiting[number][0].result(), waiting[number][1].result()

    def _show(self) -> None:
        for note in self.tally.take_notes():
            self.meter.note(note)
        seconds = max(1e-3, time.monotonic() - self.started)
        left = []
        text = f"{human_bytes(self.tally.done)} of {human_bytes(self.tally.total)}"
        if self.tally.done < self.tally.total:
            rate = self.tally.fetched / seconds
            text += f" at {human_bytes(rate)}/s"
            left.append((self.tally.total - self.tally.done) / rate if rate else None)
        if self.bytes_known:
            pages = round(self.pages_known * max(1.0, self.tally.total / self.bytes_known))
            rate = self.pages / seconds
            text += f", {human_count(self.pages)} of {human_count(pages)} pages at {human_count(rate)}/s"
            left.append((pages - self.pages) / rate if rate else None)
        known = [seconds for seconds in left if seconds is not None]
        self.meter.show(f"{self.name}: {text}" + (f", {human_time(max(known))} left" if known else ""))


def _check_room(folder: Path, files: Iterable[RemoteFile]) -> None:
    """Refuse to fetch what this disk can't hold."""
    needed = 0
    for file in files:
        here = [path for path in (folder / file.name, folder / f"{file.name}.part") if path.exists()]
        needed += max(0, file.size - sum(path.stat().st_size for path in here))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Refusal(
            f"--output-dir {folder.parent}: the dump needs {human_bytes(needed)} more and the disk has {human_bytes(free)} "
            "free; free some space, name another folder, or take fewer parts with --url-limit"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second call out of the same folder; the lock ends with the process, however that ends."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(
                f"--output-dir {folder.parent}: another download_wiki.py works there; wait for it or name another folder"
            ) from None
        yield


def _summary(journal: Journal, rules: Rules) -> None:
    counts, output = journal.counts, journal.output
    left_out = (
        f"{counted(counts.redirects, 'redirect')}, {counted(counts.not_articles, 'page')} that are not articles, "
    )
    left_out += f"{counts.short:,} shorter than {rules.min_chars} characters"
    if counts.broken:
        left_out += f", {counts.broken:,} broken"
    print(
        f"{output}: {counted(counts.kept, 'article')}, {human_count(counts.characters)} characters (left out: {left_out})"
    )
    print(
        f"Next: {script('preprocess_data.sh')} --data-prefix {output.stem} --input-dir {shlex.quote(str(output.parent))} "
        "--output-dir OUTPUT_DIR --ht-tokenizer HF_MODEL_DIR"
    )
    sys.stdout.flush()
