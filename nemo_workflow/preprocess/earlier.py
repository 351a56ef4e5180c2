"""What earlier runs have encoded, and whether it still holds: same input, same tokenizer, same flags.

An input is known by its size, its time and a hash of samples of its bytes; tokenizer and flags by one hash, the recipe.
Both stand in the .json beside a pair and in the journal of an unfinished run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_workflow.models.tokenizer_files import files_of
from nemo_workflow.models.tokenizer_identity import bytes_hash
from nemo_workflow.preprocess.documents import Reject
from nemo_workflow.preprocess.messages import Kept
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.utils.files import absolute

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1  # raise it when the same input and flags give other tokens
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
MOST = 1 << 20  # documents whose lengths are held at a time, where several inputs are copied at a time
IDENTITY = ("path", "size", "mtime_ns", "sample_sha256")  # of what a pair's .json says of an input
SAMPLE = 1 << 16  # bytes at the beginning, in the middle and at the end of an input


def recipe_of(args: argparse.Namespace, folder: Path) -> str:
    """A hash of the tokenizer's files and of every flag that decides the tokens. Cheap: nothing is loaded."""
    flags = [args.json_keys, args.separator if args.join_fields else None, args.append_eod, args.eod_token]
    flags += [args.special_tokens, args.trust_remote_code]
    config = hashlib.sha256()
    for file in files_of(folder, CONFIG_FILES):
        config.update(file.read_bytes())
    what = json.dumps([FORMAT, bytes_hash(folder), config.hexdigest(), *flags])
    return hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()


def identity_of(source: Source) -> dict[str, Any]:
    """By what an input is known again."""
    digest = hashlib.sha256()
    with source.path.open("rb", buffering=0) as stream:
        for place in (0, source.size // 2, max(0, source.size - SAMPLE)):
            digest.update(os.pread(stream.fileno(), SAMPLE, place))
    whole = {
        "path": str(source.full),
        "size": source.size,
        "mtime_ns": source.stat.st_mtime_ns,
        "sample_sha256": digest.hexdigest(),
    }
    return whole | {"part": list(source.part)} if source.part else whole


@dataclass(frozen=True)
class Entry:
    """What an earlier run made of one input: where its documents, tokens and bad lines begin in the pair, and its counts."""

    said: dict[str, Any]  # as it stands in a pair's .json: identity, lines, documents, bytes
    first_document: int
    first_byte: int  # of the .bin
    first_reject: int  # line of the list of bad lines


@dataclass(frozen=True)
class Earlier:
    """A finished pair of an earlier run with this recipe, for one key; `entries` by the path of the input."""

    prefix: Path
    entries: dict[str, Entry]
    order: tuple[str, ...]

    @staticmethod
    def read(prefix: Path, recipe: str) -> Earlier | None:
        """The pair at `prefix` if it was made with this recipe and is as it was then."""
        try:
            said = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))
            if said.get("recipe") != recipe or Path(f"{prefix}.bin").stat().st_size != said["bin_bytes"]:
                return None
            if not Path(f"{prefix}.idx").is_file():
                return None
            entries, documents, at, rejects = {}, 0, 0, 0
            for each in said["inputs"]:
                entries[str(absolute(Path(each["path"])))] = Entry(each, documents, at, rejects)
                documents += each["documents"]
                at += each["bin_bytes"]
                rejects += sum(each["bad_lines"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return Earlier(prefix, entries, tuple(entries))


def same_input(said: dict[str, Any], identity: dict[str, Any]) -> bool:
    return said.get("part") == identity.get("part") and all(said.get(name) == value for name, value in identity.items())


@dataclass(frozen=True)
class KeptInput:
    """The documents of one input, or of a part of it, in the pairs of an earlier run, a pair a key."""

    pairs: tuple[tuple[Path, Entry], ...]
    rejects: tuple[Reject, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """By what the whole input is known again."""
        return {name: self.pairs[0][1].said[name] for name in IDENTITY}

    def is_followed_by(self, other: KeptInput) -> bool:
        """Whether the other's documents come next in the same pairs."""
        return all(
            prefix == its_prefix
            and entry.first_document + entry.said["documents"] == its.first_document
            and entry.first_byte + entry.said["bin_bytes"] == its.first_byte
            for (prefix, entry), (its_prefix, its) in zip(self.pairs, other.pairs, strict=True)
        )


@dataclass(frozen=True)
class Stretch:
    """Inputs in a row, or parts of them, whose documents are in a row in the pairs of an earlier run too: they are copied
    at a time. `inputs`: number, documents kept, and whether the input ends with these."""

    inputs: tuple[tuple[int, KeptInput, bool], ...]

    def tasks(self, done: Sequence[int], chunk: int) -> Iterator[Kept]:
        """Tasks of about `chunk` bytes of tokens. `done`: bytes of all inputs up to the end of each."""
        import numpy as np

        kept = [each for _, each, _ in self.inputs]
        ends = np.cumsum([each.pairs[0][1].said["documents"] for each in kept])
        count = int(ends[-1])
        first = kept[0].pairs
        lengths = [_lengths(prefix, entry.first_document, count) for prefix, entry in first]
        width = _width(first[0][0])
        sizes = [np.concatenate([[0], np.cumsum(each, dtype=np.int64) * width]) for each in lengths]
        total = np.sum(sizes, axis=0)
        begin = at = 0
        while at < len(kept):
            end = int(np.searchsorted(total, total[begin] + chunk, side="right")) - 1
            end = min(count, max(begin + 1, end))
            pairs = tuple(
                (
                    Path(f"{prefix}.bin"),
                    entry.first_byte + int(size[begin]),
                    int(size[end] - size[begin]),
                    each[begin:end].tobytes(),
                )
                for (prefix, entry), each, size in zip(first, lengths, sizes, strict=True)
            )
            past = at + int(np.searchsorted(ends[at:], end, side="right"))
            ended = tuple(number for number, _, last in self.inputs[at:past] if last)
            source = self.inputs[at][0]
            yield Kept(source, done[ended[-1]] if ended else done[source - 1] if source else 0, pairs, ended)
            begin, at = end, past


def stretches(inputs: Iterable[tuple[int, Sequence[KeptInput]]]) -> Iterator[Stretch]:
    """Inputs in a row, by number with their parts, in as few stretches as can be."""
    row: list[tuple[int, KeptInput, bool]] = []
    documents = 0
    for number, parts in inputs:
        for place, part in enumerate(parts, start=1):
            documents += part.pairs[0][1].said["documents"]
            if row and (documents > MOST or not row[-1][1].is_followed_by(part)):
                yield Stretch(tuple(row))
                row, documents = [], part.pairs[0][1].said["documents"]
            row.append((number, part, place == len(parts)))
    if row:
        yield Stretch(tuple(row))


def _width(prefix: Path) -> int:
    from nemo_workflow.data.indexed_dataset import DTYPES, read_pair

    return dict(DTYPES.values())[read_pair(prefix).dtype]


def _lengths(prefix: Path, first: int, count: int) -> np.ndarray:
    """int32 tokens of each of `count` documents from `first` on; 0 for an empty one."""
    import numpy as np

    from nemo_workflow.data.index_check import Index
    from nemo_workflow.data.indexed_dataset import read_pair

    index = Index(read_pair(prefix))
    bounds = np.array(index.boundaries[first : first + count + 1])
    # a document of ours is one sequence, or none if it is empty
    out = np.zeros(len(bounds) - 1, np.int32)
    out[np.diff(bounds) > 0] = index.lengths[bounds[0] : bounds[-1]]
    return out


class Rejected:
    """The list of bad lines beside an earlier pair, read once."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []

    def of(self, path: str, first: int, count: int) -> tuple[Reject, ...] | None:
        """Those of an input, `count` from the line `first` on; None if they are not there."""
        try:
            found = [json.loads(line) for line in self._lines[first : first + count]]
            if len(found) < count or any(
                str(absolute(Path(file))) != path for file in {each["file"] for each in found}
            ):
                return None
            return tuple(Reject(each["line"], each["reason"], each["detail"]) for each in found)
        except (ValueError, KeyError):
            return None


def kept_input(pairs: Sequence[Earlier], source: Source, rejected: Rejected, skip: bool) -> KeptInput | None:
    """What the earlier pairs (one a key) hold of `source`, if it has not changed since.

    An input with bad lines is only kept where such lines are left out again (`skip`).
    """
    path = str(source.full)
    if any(path not in pair.entries for pair in pairs):
        return None
    entries = [pair.entries[path] for pair in pairs]
    if entries[0].said["size"] != source.size or entries[0].said["mtime_ns"] != source.stat.st_mtime_ns:
        return None
    if not same_input(entries[0].said, identity_of(source)):
        return None
    bad = sum(entries[0].said["bad_lines"].values())
    rejects: tuple[Reject, ...] = ()
    if bad:
        found = rejected.of(path, entries[0].first_reject, bad) if skip else None
        if found is None:
            return None
        rejects = found
    return KeptInput(tuple((pair.prefix, entry) for pair, entry in zip(pairs, entries, strict=True)), rejects)
