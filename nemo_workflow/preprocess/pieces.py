"""The pieces of a corpus that several machines share out, and what is done of them. Imports no numpy.

A piece is some whole files, or a part of a large file of lines. Each becomes a pair of its own in a folder that all
machines see, <pieces>/<recipe>/<name>/; at the end one of them copies all into the pairs that were asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_workflow.preprocess.earlier import Earlier, KeptInput, Rejected, kept_input
from nemo_workflow.preprocess.groups import Group
from nemo_workflow.preprocess.sources import Source

PREFIX = "piece"  # of the pair of a piece
DONE = "done"  # a file in the folder of a piece that needs no more work
A_NODE = 8  # pieces a node, so that none waits long for the last
SMALLEST, LARGEST = 1 << 20, 1 << 30  # bytes of input a piece


@dataclass(frozen=True)
class Piece:
    """What one machine encodes at a time; `name` tells its inputs as they are now."""

    name: str
    sources: tuple[Source, ...]

    @property
    def group(self) -> Group:
        return Group(PREFIX, self.sources)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sources": sources_to_json(self.sources),
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Piece:
        return Piece(values["name"], sources_from_json(values["sources"]))


def sources_to_json(sources: Sequence[Source]) -> list[Any]:
    """With absolute paths: a node works in another folder."""
    return [[str(each.full), each.prefix, each.top, each.part] for each in sources]


def sources_from_json(rows: list[Any]) -> tuple[Source, ...]:
    return tuple(Source(Path(path), prefix, top, tuple(part) if part else None) for path, prefix, top, part in rows)


def cut(sources: Sequence[Source], nodes: int, total: int | None = None) -> list[Piece]:
    """Pieces of about the same size, `A_NODE` for each of the nodes or more; sizes are powers of two, so that most stay the
    same where the corpus grows or the nodes are others. `total`: bytes of the corpus that `sources` are left of."""
    share = (sum(source.size for source in sources) if total is None else total) // (A_NODE * nodes)
    size = min(LARGEST, max(SMALLEST, 1 << max(0, share.bit_length() - 1)))
    pieces, held = [], 0
    members: list[Source] = []
    for source in sources:
        if source.is_plain and source.size > 2 * size:
            pieces += [_piece([replace(source, part=part)]) for part in _parts(source.size, size)]
            continue
        members.append(source)
        held += source.size
        if held >= size:
            pieces.append(_piece(members))
            members, held = [], 0
    return [*pieces, _piece(members)] if members else pieces


def _parts(total: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, size):
        yield start, min(total, start + size)


def _piece(sources: Sequence[Source]) -> Piece:
    what = [[str(each.full), each.size, each.stat.st_mtime_ns, each.part] for each in sources]
    return Piece(hashlib.sha256(json.dumps(what).encode("utf-8", "surrogateescape")).hexdigest()[:16], tuple(sources))


class Finished:
    """What the pieces in a folder hold of inputs, for pairs of these names. `skip`: bad lines are left out."""

    def __init__(self, folder: Path, names: Sequence[str], recipe: str, skip: bool):
        self.skip = skip
        self._of: dict[str, list[tuple[tuple[int, int] | None, list[Earlier], Rejected]]] = {}
        for place in sorted(path.parent for path in folder.glob(f"*/{DONE}")):
            pairs = [Earlier.read(place / stem, recipe) for stem in Group(PREFIX, ()).stems(names)]
            sound = [pair for pair in pairs if pair is not None]
            if len(sound) == len(names):
                rejected = Rejected(place / Group(PREFIX, ()).rejects_name)
                for path, entry in sound[0].entries.items():
                    part = tuple(entry.said["part"]) if "part" in entry.said else None
                    self._of.setdefault(path, []).append((part, sound, rejected))

    def of(self, source: Source) -> tuple[KeptInput, ...]:
        """The input whole, in one part or several in their order; empty where something of it is missing."""
        found: list[KeptInput] = []
        at = 0
        while not found or at < source.size:
            held = None
            for part, pairs, rejected in self._of.get(str(source.full), ()):
                if (part[0] if part else 0) == at:
                    held = kept_input(pairs, replace(source, part=part), rejected, self.skip)
                    if held is not None:
                        at = part[1] if part else source.size
                        break
            if held is None:
                return ()
            found.append(held)
        return tuple(found)


def still_to_encode(sources: Sequence[Source], nodes: int, folder: Path, finished: Finished) -> list[Piece]:
    """The pieces of these inputs that are not done; cut as before, however many of the inputs were done meanwhile."""
    left = [source for source in sources if not finished.of(source)]
    pieces = cut(left, nodes, total=sum(source.size for source in sources))
    return [piece for piece in pieces if not (folder / piece.name / DONE).exists()]
