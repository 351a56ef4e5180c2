"""`pip install … | python pip_progress.py SITE_PACKAGES`: one line on how far pip is, instead of hundreds or none.

Counts what pip says it downloads, then the packages that have arrived in SITE_PACKAGES: about that pip says nothing for
a minute. Runs in the Python that makes the environment, so it needs nothing but that. pip's errors go past it on stderr.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

FILE = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:\S*/)?(\S+\.(?:whl|tar\.gz|zip))(?!\S)(?: \(([\d.]+) (\w+)\))?"
)
MEGABYTES = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
LOOK_SECONDS = 0.5
LINE_SECONDS = 15.0  # between two lines where nothing can be overwritten: a log, a pipe


class Progress:
    """What pip has said so far, and what has arrived."""

    def __init__(self, site_packages: Path):
        self.site_packages = site_packages
        self.before = self._there()
        self.files = 0
        self.megabytes = 0.0
        self.newest = ""
        self.to_install = 0

    def read_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.read(line)

    def read(self, line: str) -> None:
        found = FILE.match(line)
        if found:
            name, size, unit = found.groups()
            self.files += 1
            self.newest = name.split("-")[0]
            self.megabytes += float(size) * MEGABYTES.get(unit, 0.0) if size else _megabytes(line.split()[-1])
        if line.startswith("Installing collected packages:"):
            self.to_install = line.count(",") + 1

    def text(self) -> str:
        fetched = f"{self.files} packages, {self.megabytes:,.0f} MB"
        if self.to_install:
            return f"{fetched}; installed {min(self._there() - self.before, self.to_install)} of {self.to_install}"
        return f"{fetched}: {self.newest}" if self.newest else "asking for packages"

    def _there(self) -> int:
        return sum(1 for _ in self.site_packages.glob("*.dist-info"))


def _megabytes(path: str) -> float:
    try:
        return Path(path).stat().st_size / 1e6
    except OSError:
        return 0.0


def main() -> None:
    """Read pip's output to its end."""
    progress = Progress(Path(sys.argv[1]))
    live = sys.stdout.isatty()
    reader = threading.Thread(target=progress.read_all, args=(sys.stdin,), daemon=True)
    reader.start()
    said, shown = time.monotonic(), ""
    while True:
        reader.join(LOOK_SECONDS)
        ended = not reader.is_alive()
        text, now = progress.text(), time.monotonic()
        if text != shown and (live or ended or now - said > LINE_SECONDS):
            print(f"\r\x1b[K{text}" if live else text, end="" if live else "\n", flush=True)
            said, shown = now, text
        if ended:
            break
    if live:
        print()


if __name__ == "__main__":
    main()
