"""What earlier runs have encoded, and whether it still holds: same input, same tokenizer, same flags.

An input is known by its size, its time and a hash of samples of its bytes; tokenizer and flags by one hash, the recipe.
Both stand in the .json beside a pair and in the journal of an unfinished run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_workflow.models.tokenizer_files import files_of
from nemo_workflow.preprocess.documents import Reject
from nemo_workflow.preprocess.messages import Kept
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.preprocess.tokenizer import tokenizer_hash

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1  # raise it when the same input and flags give other tokens
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
SAMPLE = 1 << 16  # bytes at the beginning, in the middle and at the end of an input


def recipe_of(args: argparse.Namespace, folder: Path) -> str:
    """A hash of the tokenizer's files and of every flag that decides the tokens. Cheap: nothing is loaded."""
    flags = [args.json_keys, args.separator if args.join_fields else None, args.append_eod, args.eod_token]
    flags += [args.special_tokens, args.trust_remote_code]
    config = hashlib.sha256()
    for file in files_of(folder, CONFIG_FILES):
        config.update(file.read_bytes())
    what = json.dumps([FORMAT, tokenizer_hash(folder), config.hexdigest(), *flags])
    return hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()


def identity_of(source: Source) -> dict[str, Any]:
    """By what an input is known again."""
    digest = hashlib.sha256()
    with source.path.open("rb", buffering=0) as stream:
        for place in (0, source.size // 2, max(0, source.size - SAMPLE)):
            digest.update(os.pread(stream.fileno(), SAMPLE, place))
    whole = {
        "path": str(source.path.absolute()),
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
                entries[each["path"]] = Entry(each, documents, at, rejects)
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
    """The documents of one input in the pairs of an earlier run, a pair a key."""

    pairs: tuple[tuple[Path, Entry], ...]
    rejects: tuple[Reject, ...]

    def tasks(self, number: int, done: int, chunk: int) -> Iterator[Kept]:
        """Tasks of about `chunk` bytes of tokens; the last one carries the counts of them all."""
        import numpy as np

        lengths = [_lengths(prefix, entry) for prefix, entry in self.pairs]
        count = len(lengths[0])
        width = _width(self.pairs[0][0])
        sizes = [np.concatenate([[0], np.cumsum(each, dtype=np.int64) * width]) for each in lengths]
        total = np.sum(sizes, axis=0)
        begin, first = 0, True
        while begin < count or first:
            end = int(np.searchsorted(total, total[begin] + chunk, side="right")) - 1
            end = min(count, max(begin + 1, end))
            last, first = end >= count, False
            pairs = tuple(
                (
                    Path(f"{prefix}.bin"),
                    entry.first_byte + int(size[begin]),
                    int(size[end] - size[begin]),
                    each[begin:end].tobytes(),
                )
                for (prefix, entry), each, size in zip(self.pairs, lengths, sizes, strict=True)
            )
            yield self._task(number, done, pairs, last)
            begin = end

    def _task(self, number: int, done: int, pairs: tuple[tuple[Path, int, int, bytes], ...], last: bool) -> Kept:
        if not last:
            return Kept(number, done, pairs)
        said = [entry.said for _, entry in self.pairs]
        utf8, inside = (tuple(each[name] for each in said) for name in ("bytes", "eod_ids_inside_texts"))
        return Kept(number, done, pairs, said[0]["lines"], self.rejects, utf8, inside)


def _width(prefix: Path) -> int:
    from nemo_workflow.data.indexed_dataset import DTYPES, read_pair

    return dict(DTYPES.values())[read_pair(prefix).dtype]


def _lengths(prefix: Path, entry: Entry) -> np.ndarray:
    """int32 tokens of each document of the input; 0 for an empty one."""
    import numpy as np

    from nemo_workflow.data.index_check import Index
    from nemo_workflow.data.indexed_dataset import read_pair

    index = Index(read_pair(prefix))
    documents = slice(entry.first_document, entry.first_document + entry.said["documents"] + 1)
    bounds = np.array(index.boundaries[documents])
    # a document of ours is one sequence, or none if it is empty
    out = np.zeros(len(bounds) - 1, np.int32)
    out[np.diff(bounds) > 0] = index.lengths[bounds[0] : bounds[-1]]
    return out


def kept_input(pairs: Sequence[Earlier], source: Source, rejects_path: Path, skip: bool) -> KeptInput | None:
    """What the earlier pairs (one a key) hold of `source`, if it has not changed since.

    An input with bad lines is only kept where such lines are left out again (`skip`).
    """
    path = str(source.path.absolute())
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
        found = _rejects(rejects_path, path, entries[0].first_reject, bad) if skip else None
        if found is None:
            return None
        rejects = found
    return KeptInput(tuple((pair.prefix, entry) for pair, entry in zip(pairs, entries, strict=True)), rejects)


def _rejects(path: Path, of: str, first: int, count: int) -> tuple[Reject, ...] | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[first : first + count]
        found = [json.loads(line) for line in lines]
        if len(found) < count or any(str(Path(each["file"]).absolute()) != of for each in found):
            return None
        return tuple(Reject(each["line"], each["reason"], each["detail"]) for each in found)
    except (OSError, ValueError, KeyError):
        return None
