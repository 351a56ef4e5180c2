"""What the kinds of cases of run_cases.py share: their folders, and how one says that it has imported and waits for its turn."""

from __future__ import annotations

import sys
from pathlib import Path

READY = "ready"
PLACES = {"{data}": "dataset", "{model}": "dense"}  # any other name in braces is a folder's own


def wait(folder: Path) -> None:
    """Ranks of one case share standard input: one gets the line, the others its end."""
    (folder / READY).touch()
    sys.stdin.readline()


def placed(word: str, data: Path, out: Path) -> str:
    """A word of a case's flags with the folders that it names: {out}/… is among the results, {NAME} in `data`."""
    if word.startswith("{out}"):
        return word.replace("{out}", str(out), 1)
    if word.startswith("{") and word.endswith("}"):
        return str(data / PLACES.get(word, word[1:-1]))
    return word
