"""The data a run draws from: folders and prefixes of .bin/.idx pairs with their weights."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_workflow.data.indexed_dataset import Pair, find_prefixes, read_pair
from nemo_workflow.utils import startup
from nemo_workflow.utils.arguments import UNSET
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute, from_here
from nemo_workflow.utils.folder_kinds import TEXT, holds_data, meant

BY_TOKENS = "tokens"  # in place of a weight: the source's own tokens
MOST = "max-epochs="
SHOWN = 80  # characters of a line that is wrong
NAME = re.compile(r"[\w.-]+")  # of a validation set: part of a metric's name
COMMENT = re.compile(r"(?:^|\s)#.*")  # a # within a word belongs to a path


@dataclass(frozen=True)
class Source:
    """One .bin/.idx pair of a blend and its weight (weights sum to 1)."""

    pair: Pair
    weight: float
    most_epochs: float | None = None  # of its own line in a --blend file


@dataclass(frozen=True)
class ValidationSet:
    """A --validation-dir: text that no step trains on, with a loss of its own under `name`."""

    name: str
    sources: tuple[Source, ...]

    def samples(self, seq_length: int) -> int:
        """Samples in all of its text."""
        return sum(max(0, (source.pair.tokens - 1) // seq_length) for source in self.sources)


def validation_sets(words: Sequence[str], problems: list[str]) -> tuple[ValidationSet, ...]:
    """What `NAME=DIR` or `DIR` name. What is wrong is added to `problems`."""
    found: list[ValidationSet] = []
    for word in words:
        name, place = name_and_place(word)
        if not place:
            problems.append(f"--validation-dir {word}: no folder behind the =; {UNSET}")
            continue
        pairs = _pairs_at(place, problems, "--validation-dir")
        if not NAME.fullmatch(name):
            problems.append(
                f"--validation-dir {word}: {name!r} is not a valid name; use letters, digits, . _ and -: NAME=DIR"
            )
        elif name in (one.name for one in found):
            problems.append(f"--validation-dir {word}: a second set called {name}; give it another name: NAME=DIR")
        elif pairs:
            found.append(ValidationSet(name, _by_tokens(pairs, 1.0)))
    return tuple(found)


def name_and_place(word: str) -> tuple[str, str]:
    """`NAME=DIR` -> name and folder; of a folder alone its own name. A folder may have = in its path."""
    name, equals, place = word.partition("=")
    if not equals or "/" in name:
        path = absolute(word)
        return (path.parent if path.name == "preprocessed" else path).name, word
    return name, place


@dataclass(frozen=True)
class Group:
    """The pairs of one line of a --blend file, or of one --dataset-dir. Within it they are weighted by tokens."""

    weight: float | None  # None: its tokens
    pairs: list[Pair]
    most_epochs: float | None = None

    @property
    def share(self) -> float:
        """Its weight, which is in proportion to those of the other groups."""
        return float(sum(pair.tokens for pair in self.pairs)) if self.weight is None else self.weight


def from_folders(folders: tuple[str, ...], problems: list[str], temperature: float | None = None) -> tuple[Source, ...]:
    """Every pair of the folders, weighted by its tokens; with a temperature the folders by tokens ** (1 / temperature).

    What is wrong is added to `problems`.
    """
    groups = [Group(None, _pairs_at(folder, problems)) for folder in folders]
    pairs = _once([pair for group in groups for pair in group.pairs], problems)
    if temperature is None:
        return _by_tokens(pairs, 1.0)
    return _by_temperature([group for group in groups if group.pairs], temperature, problems)


def from_file(path: str, problems: list[str], temperature: float | None = None) -> tuple[Source, ...]:
    """The sources of a --blend file: `WEIGHT [max-epochs=N] PATH` a line, # after white space starts a comment.

    Weights need not sum to 1; the word `tokens` weighs by tokens. The weight of a folder with several pairs is shared
    out by tokens. What is wrong is added to `problems`.
    """
    lines = _lines_of(path, problems)
    if lines is None:
        return ()
    entries: list[Group] = []
    for number, line in enumerate(lines, 1):
        text = COMMENT.sub("", line).strip()
        if text:
            entries += _entry(path, number, text, problems)
    if len({entry.weight is None for entry in entries}) > 1:
        problems.append(f"--blend {path}: some lines weigh by `tokens` and some by a number; write all one way")
    _once([pair for entry in entries for pair in entry.pairs], problems)
    return _by_temperature(entries, temperature, problems)


def _lines_of(path: str, problems: list[str]) -> list[str] | None:
    """The lines of a --blend file; None, and one problem, where another file or a folder is there."""
    wanted = "a text file with a line `WEIGHT PATH` for each folder or pair is expected"
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        problems.append(f"--blend {path}: no such file{from_here(path)}; {wanted}")
        return None
    except IsADirectoryError:
        data = f": {meant(path, TEXT, '--blend')[2:]}" if holds_data(Path(path)) else f"; {wanted}"
        problems.append(f"--blend {path}: is a folder{data}")
        return None
    except UnicodeDecodeError:
        problems.append(f"--blend {path}: is not text in UTF-8; {wanted}")
        return None
    except OSError as error:
        problems.append(f"--blend {path}: cannot be read: {error.strerror}; {wanted}")
        return None
    said = [text for line in lines if (text := COMMENT.sub("", line).strip())]
    right = sum(_is_weight(text.split()[0]) for text in said)
    if 2 * right < max(1, len(said)):  # it is another file, and one problem
        few = f"{right:,} of {counted(len(said), 'line')}" if right else "no line"
        problems.append(f"--blend {path}: {few} of the form `WEIGHT PATH`; {wanted}")
        return None
    return lines


def _by_temperature(groups: list[Group], temperature: float | None, problems: list[str]) -> tuple[Source, ...]:
    """Groups weighted by share ** (1 / temperature): above 1 small sources count for more, at infinity all alike."""
    if temperature is not None and len(groups) == 1:
        problems.append(
            f"--blend-temperature {temperature:g}: does nothing with one source; give each a --dataset-dir, or a line in --blend"
        )
    # shares of the largest: a power of a sum of tokens may be more than a float holds
    largest = max((group.share for group in groups), default=1.0)
    shares = [group.share if temperature is None else (group.share / largest) ** (1 / temperature) for group in groups]
    total = sum(shares)
    return tuple(
        replace(source, most_epochs=group.most_epochs)
        for group, share in zip(groups, shares, strict=True)
        for source in _by_tokens(group.pairs, share / total)
    )


def limited(
    sources: Sequence[Source], samples: Sequence[int], drawn: int, most: float | None, problems: list[str]
) -> tuple[Source, ...]:
    """The sources with weights under which none of them is drawn for more epochs than it may be.

    `samples` are those of one epoch of each source, `drawn` those of the whole run, `most` the epochs of a source that has no
    limit of its own. What a source may not give goes to the others, in proportion to their weights.
    """
    limits = [source.most_epochs or most for source in sources]
    allowed = [one * epochs / drawn if epochs else float("inf") for one, epochs in zip(samples, limits, strict=True)]
    if sum(allowed) < 1:
        have = sum(int(one * (epochs or 0)) for one, epochs in zip(samples, limits, strict=True))
        problems.append(
            f"--max-epochs-per-source: the run draws {drawn:,} samples, and {have:,} are all that the sources may give;"
            f" allow more epochs, add data, or lower --max-steps"
        )
        return tuple(sources)
    weights = [source.weight for source in sources]
    full: set[int] = set()
    while over := {at for at, weight in enumerate(weights) if weight > allowed[at] and at not in full}:
        full |= over
        left = 1 - sum(allowed[at] for at in full)
        others = sum(sources[at].weight for at in range(len(sources)) if at not in full)
        weights = [
            allowed[at] if at in full else source.weight * left / others if others else 0.0
            for at, source in enumerate(sources)
        ]
    return tuple(replace(source, weight=weight) for source, weight in zip(sources, weights, strict=True))


def _entry(path: str, number: int, text: str, problems: list[str]) -> list[Group]:
    weight_text, *rest = text.split(None, 1)
    place, most = (rest[0] if rest else ""), None
    if place.startswith(MOST.replace("-", "_")):
        place = place.replace("_", "-", 1)
    if place.startswith(MOST):
        limit, _, place = place.removeprefix(MOST).partition(" ")
        most, place = _number(limit), place.strip()
    weight = None if weight_text == BY_TOKENS else _number(weight_text)
    if weight == 0 or most == 0 or not place:
        problems.append(
            f"--blend {path}, line {number}: expected `WEIGHT PATH` or `WEIGHT {MOST}N PATH`, each number above 0 (or `tokens`"
            f" for the weight), found {textwrap.shorten(text, SHOWN)!r}"
        )
        return []
    if why := startup.no_home(place):
        problems.append(f"--blend {path}, line {number}: {place}: {why}")
        return []
    pairs = _pairs_at(str(_beside(place, Path(path).parent)), problems, f"--blend {path}, line {number}:")
    return [Group(weight, pairs, most)] if pairs else []


def _beside(place: str, folder: Path) -> Path:
    """A path of a --blend file: from the file's folder or, where nothing is there, from the current one."""
    named = Path(place).expanduser()
    places = [absolute(folder / named), absolute(named)]
    return next((one for one in places if one.exists() or Path(f"{one}.idx").exists()), places[0])


def _is_weight(word: str) -> bool:
    """Whether a line begins as one of a --blend file does, right or wrong."""
    try:
        return word == BY_TOKENS or float(word) is not None
    except ValueError:
        return False


def _number(text: str) -> float:
    """A finite number above 0, or 0 for anything else."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 < number < float("inf") else 0.0


def _pairs_at(place: str, problems: list[str], flag: str = "--dataset-dir") -> list[Pair]:
    """The pairs with tokens of a folder, or the one pair of a prefix; none if anything is wrong with one of them.

    `flag` has named the place, and is what the problems blame.
    """
    path = Path(place).expanduser()
    try:
        if not path.is_dir() and Path(f"{path}.idx").is_file():
            prefixes = [absolute(path)]
        else:
            prefixes = find_prefixes(path, flag)
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
        problems.append(f"{flag} {place}: no token in its files; preprocess text into it")
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
