"""The data a run draws from: folders and prefixes of .bin/.idx pairs with their weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.data.indexed_dataset import Pair, find_prefixes, read_pair
from nemo_workflow.utils import startup
from nemo_workflow.utils.errors import Refusal

COMMENT = re.compile(r"(?:^|\s)#.*")  # a # within a word belongs to a path


@dataclass(frozen=True)
class Source:
    """One .bin/.idx pair of a blend and its weight (weights sum to 1)."""

    pair: Pair
    weight: float


def from_folders(folders: tuple[str, ...], problems: list[str]) -> tuple[Source, ...]:
    """Every pair of the folders, weighted by its tokens. What is wrong is added to `problems`."""
    pairs: list[Pair] = []
    for folder in folders:
        pairs += _pairs_at(folder, problems)
    return _by_tokens(_once(pairs, problems), 1.0)


def from_file(path: str, problems: list[str]) -> tuple[Source, ...]:
    """The sources of a --blend file: `WEIGHT PATH` a line, # after white space starts a comment, weights need not sum to 1.

    The weight of a folder with several pairs is shared out by tokens. What is wrong is added to `problems`.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"--blend {path}: cannot be read: {error}")
        return ()
    entries: list[tuple[float, list[Pair]]] = []
    before = len(problems)
    for number, line in enumerate(lines, 1):
        text = COMMENT.sub("", line).strip()
        if text:
            entries += _entry(path, number, text, problems)
    if not entries and len(problems) == before:
        problems.append(f"--blend {path}: no line of the form `WEIGHT PATH`")
    total = sum(weight for weight, _ in entries)
    _once([pair for _, pairs in entries for pair in pairs], problems)
    return tuple(source for weight, pairs in entries for source in _by_tokens(pairs, weight / total))


def _entry(path: str, number: int, text: str, problems: list[str]) -> list[tuple[float, list[Pair]]]:
    weight_text, *rest = text.split(None, 1)
    place = rest[0] if rest else ""
    try:
        weight = float(weight_text)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf") or not place:
        problems.append(f"--blend {path}, line {number}: expected `WEIGHT PATH` with a weight above 0, found {text!r}")
        return []
    if why := startup.no_home(place):
        problems.append(f"--blend {path}, line {number}: {place}: {why}")
        return []
    # a relative path is relative to the file that names it
    pairs = _pairs_at(str(Path(path).parent / Path(place).expanduser()), problems)
    return [(weight, pairs)] if pairs else []


def _pairs_at(place: str, problems: list[str]) -> list[Pair]:
    """The pairs with tokens of a folder, or the one pair of a prefix; none if anything is wrong with one of them."""
    path = Path(place).expanduser()
    try:
        if not path.is_dir() and Path(f"{path}.idx").is_file():
            prefixes = [path.absolute()]
        else:
            prefixes = find_prefixes(path)
    except Refusal as refusal:
        problems += refusal.problems
        return []
    pairs = []
    for prefix in prefixes:
        try:
            pairs.append(read_pair(prefix))
        except Refusal as refusal:
            problems += refusal.problems
    if len(pairs) < len(prefixes):
        return []
    if not any(pair.tokens for pair in pairs):
        problems.append(f"--dataset-dir {place}: no token in its files; preprocess text into it")
    return [pair for pair in pairs if pair.tokens]


def _once(pairs: list[Pair], problems: list[str]) -> list[Pair]:
    seen: set[str] = set()
    for pair in pairs:
        if pair.prefix in seen:
            problems.append(f"{pair.prefix}: named twice as a source; name it once, or weight it in a --blend file")
        seen.add(pair.prefix)
    return pairs


def _by_tokens(pairs: list[Pair], weight: float) -> tuple[Source, ...]:
    total = sum(pair.tokens for pair in pairs)
    return tuple(Source(pair, weight * pair.tokens / total) for pair in pairs)
