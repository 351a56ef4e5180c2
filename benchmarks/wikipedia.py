"""Pages a CPU-second, and how clean the text is: download_wiki.py beside wikiextractor on one made-up dump.

    python -m venv /tmp/wx && /tmp/wx/bin/pip install wikiextractor mwparserfromhell
    python benchmarks/wikipedia.py --other-python /tmp/wx/bin/python

CPU seconds are user and system time of the whole process tree, start-up included. Ours is the whole command with the
dump already downloaded: checksums, index, decompression, extraction, journal. Clean: of the words that a tool writes,
how many a reader of the page sees (precision), and of those that a reader sees, how many it writes (recall); order
counts for nothing. A Chinese character is a word.
"""

from __future__ import annotations

import argparse
import html
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.wikipedia.dump import write_dump
from tests.wikipedia.dump_site import DumpSite
from tests.wikipedia.generator import Page, Writer, pages

ROOT = Path(__file__).resolve().parents[1]
WORD = re.compile(r"[一-鿿]|[^\W_一-鿿]+")
# Reads {"title", "wikitext"} lines, writes {"title", "text"} lines.
MWPARSER = """
import json, sys, mwparserfromhell
for line in open(sys.argv[1]):
    page = json.loads(line)
    text = mwparserfromhell.parse(page["wikitext"]).strip_code()
    print(json.dumps({"title": page["title"], "text": text}))
"""


def cpu_seconds(command: Sequence[str | Path], output: Path | None = None) -> float:
    """User and system seconds of a command and all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (output or Path("/dev/null")).open("w") as stream:
        subprocess.run([str(part) for part in command], check=True, stdout=stream, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak_memory(command: Sequence[str | Path]) -> float:
    """Largest proportional set size (MB) of a command's process tree, looked at every 20 ms."""
    process = psutil.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        total = 0
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return peak / 1e6


def words(text: str) -> Counter[str]:
    return Counter(WORD.findall(text))


def quality(texts: Mapping[str, str], expected: Mapping[str, str]) -> tuple[float, float, float]:
    """Precision and recall of words over all pages, and the share of pages whose words are all right."""
    right = written = wanted = same = 0
    for title, text in expected.items():
        got, want = words(texts.get(title, "")), words(text)
        right += (got & want).total()
        written += got.total()
        wanted += want.total()
        same += got == want
    return right / written, right / wanted, same / len(expected)


def read_lines(paths: Iterable[Path]) -> dict[str, str]:
    """Text by title."""
    lines = (line for path in paths for line in path.read_text(encoding="utf-8").split("\n") if line)
    return {page["title"]: page["text"] for page in map(json.loads, lines)}


def forgiving(texts: Mapping[str, str]) -> dict[str, str]:
    """wikiextractor writes HTML entities and the title as the first line: neither counts against it."""
    return {title: html.unescape(text).strip().removeprefix(title + "\n") for title, text in texts.items()}


def command(site: DumpSite, folder: Path, workers: int) -> list[str | Path]:
    script = ROOT / "download_example_data" / "download_wiki.py"
    flags = ["--base-url", site.url, "--output-dir", folder, "--keep-metadata", "--overwrite", "--min-chars", "1"]
    return [sys.executable, script, *flags, "--workers", str(workers)]


class Bench:
    def __init__(self, work: Path, made: list[Page], other: Path):
        self.work = work
        self.made = made
        self.other = other
        folder = write_dump(work / "site", [made])
        self.dump = next(folder.glob("*multistream.xml.bz2"))
        self.site = DumpSite(work / "site")
        self.expected = {page.title: page.expected for page in made if page.expected}

    def ours(self, workers: int) -> list[str | Path]:
        return command(self.site, self.work / "ours", workers)

    def wikiextractor(self, *flags: str) -> list[str | Path]:
        return [self.other.parent / "wikiextractor", "--json", "-q", *flags, "-o", self.work / "theirs", self.dump]

    def speed(self, rounds: int) -> None:
        tools = {
            "download_wiki.py --workers 1": self.ours(1),
            "download_wiki.py --workers 2": self.ours(2),
            "wikiextractor": self.wikiextractor(),
            "wikiextractor --no-templates": self.wikiextractor("--no-templates"),
        }
        cpu_seconds(self.ours(1))  # the download
        seconds: dict[str, list[float]] = {name: [] for name in tools}
        for _ in range(rounds):
            for name, command in tools.items():
                seconds[name].append(cpu_seconds(command))
        base = statistics.median(seconds["wikiextractor"])
        print(f"\n{len(self.made)} pages, {self.dump.stat().st_size / 1e6:.1f} MB of bz2; median of {rounds}")
        for name, values in seconds.items():
            middle = statistics.median(values)
            spread = f"{min(values):.2f}-{max(values):.2f}"
            print(
                f"{name}: {middle:.2f} CPU-s ({spread}), {len(self.made) / middle:.0f} pages/CPU-s, {base / middle:.2f} x"
            )

    def cleanness(self) -> None:
        print("\nprecision, recall, pages with exactly the right words")
        self._report("download_wiki.py", read_lines((self.work / "ours").glob("*.jsonl")))
        self._report("wikiextractor", forgiving(read_lines((self.work / "theirs").rglob("wiki_*"))))

    def _report(self, name: str, texts: Mapping[str, str], expected: Mapping[str, str] | None = None) -> None:
        precision, recall, same = quality(texts, expected or self.expected)
        print(f"{name}: {precision:.4%}, {recall:.4%}, {same:.2%}")

    def mwparserfromhell(self, count: int) -> None:
        sample = [page for page in self.made if page.expected][:count]
        source, result = self.work / "sample.jsonl", self.work / "mw.jsonl"
        source.write_text("".join(json.dumps({"title": p.title, "wikitext": p.text}) + "\n" for p in sample))
        seconds = cpu_seconds([self.other, "-c", MWPARSER, source], result)
        print(f"\nmwparserfromhell strip_code alone, {len(sample)} articles: {len(sample) / seconds:.0f} pages/CPU-s")
        self._report("mwparserfromhell", read_lines([result]), {p.title: p.expected or "" for p in sample})


def memory(name: str, made: Iterable[Page], work: Path) -> None:
    """Peak memory of the whole command, download included."""
    write_dump(work / "site", [made])
    site = DumpSite(work / "site")
    for workers in (1, 2, 8):
        with tempfile.TemporaryDirectory() as folder:
            peak = peak_memory(command(site, Path(folder), workers))
        print(f"peak memory, {name}, {workers} workers: {peak:.0f} MB")
    site.close()


def long_pages(count: int, size: int) -> Iterator[Page]:
    """Articles of `size` bytes each; MediaWiki allows none above 2 MiB."""
    chance = random.Random(1)
    articles = [Writer(chance, han=number % 2 == 0).article(8) for number in range(400)]
    for number in range(1, count + 1):
        chosen: list[str] = []
        length = 0
        while length < size:
            chosen.append(chance.choice(articles)[0])
            length += len(chosen[-1].encode())
        yield Page(number, f"Long {number}", 0, "\n\n".join(chosen), "")


def main() -> None:
    arguments = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--other-python", type=Path, required=True, help="python of a venv with wikiextractor and mwparserfromhell"
    )
    arguments.add_argument("--pages", type=int, default=20_000)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), list(pages(args.pages)), args.other_python)
        bench.speed(args.rounds)
        bench.cleanness()
        bench.mwparserfromhell(1000)
        bench.site.close()
    for name, made in ("short pages", pages(5000)), ("300 pages of 2 MB", long_pages(300, 2_000_000)):
        with tempfile.TemporaryDirectory() as work:
            memory(name, made, Path(work))


if __name__ == "__main__":
    main()
