"""python -m nemo_workflow.dataset: read .bin/.idx pairs whole, check them, print their figures, decode a document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_workflow.data.index_check import Index, blocks_of, check_index
from nemo_workflow.data.indexed_dataset import DTYPES, Pair, find_prefixes, read_pair, what_file
from nemo_workflow.utils import console
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.meant import called, close_to

if TYPE_CHECKING:
    import numpy as np


MEANINGS = called(
    {
        "--tokenizer": "hf-tokenizer tokenizer-path tokenizer-model hf-model-id model",
        "--document": "index doc-id id n",
        "--characters": "chars length max-chars head",
    },
    {
        "input data dataset dataset-dir dataset-path path prefix data-path": "the folder or pair stands by itself:"
        " python -m nemo_workflow.dataset DIR",
        "num-documents documents max-documents limit": "it prints one document, --document N, and counts all: leave it out",
        "stats verify check info count": "it checks and counts by itself: leave it out",
        "text decode show print detokenize": "--tokenizer DIR_OR_ID prints a document, and --document N says which",
    },
)


# subcommands that others have
JOINS, SHOWS = ("merge", "concat", "cat", "combine"), ("show", "info", "stats", "check", "verify", "inspect", "list")


def parser() -> argparse.ArgumentParser:
    p = Parser(
        meanings=MEANINGS,
        prog="python -m nemo_workflow.dataset",
        description="Check .bin/.idx pairs and print their figures. `join OUT A B…` joins several pairs into one (join --help).",
    )
    p.add_argument(
        "path",
        metavar="DIR_OR_PREFIX",
        help="a folder with pairs (or the folder above its preprocessed/), or one pair without its extension",
    )
    p.add_argument(
        "--tokenizer",
        metavar="DIR_OR_ID",
        help="Hugging Face tokenizer: decodes a document, checks the ids against its vocabulary",
    )
    p.add_argument("--document", metavar="N", type=int, help="the document to decode, counted from 0 (default: 0)")
    p.add_argument(
        "--characters", metavar="N", type=int, help="print at most this many of its characters (default: 2000)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "join":
        from nemo_workflow.preprocess import join_pairs

        return join_pairs.main(words[1:], check_pair)
    if words[1:2] and not Path(words[0]).exists():
        if close_to(words[0], ["join"]) or words[0] in JOINS:
            raise Refusal(f"{words[0]}: there is no such folder or pair; did you mean join?")
        if words[0] in SHOWS:
            raise Refusal(
                f"{words[0]}: there is no such folder or pair; give the data alone, which is checked and counted"
            )
    args = parser().parse_args(words)
    path = Path(args.path)
    idle = [name for name in ("document", "characters") if getattr(args, name) is not None]
    if idle and not args.tokenizer:
        raise Refusal(f"--{idle[0]}: a document is only printed with --tokenizer; add it or leave this out")
    if path.is_dir():
        prefixes = find_prefixes(path, "DIR_OR_PREFIX")
    elif path.is_file() and path.suffix not in (".bin", ".idx"):
        raise Refusal(f"{path}: {what_file(path)}")
    else:
        prefixes = [path.with_suffix("") if path.suffix in (".bin", ".idx") else path]
    problems: list[str] = []
    for prefix in prefixes:
        try:
            pair = read_pair(prefix)
            figures = check_pair(pair)
        except Refusal as refusal:
            problems += refusal.problems
            continue
        print("\n".join(lines_for_people(pair, figures)))
        if args.tokenizer:
            problems += _decode(args, pair, figures)
    if problems:
        raise Refusal(problems)
    return 0


@dataclass(frozen=True)
class Figures:
    """What reading a whole pair tells; lengths in tokens."""

    longest: int
    shortest: int
    empty: int
    largest_id: int
    last_tokens: dict[int, int]  # the commonest last ids of documents


def check_pair(pair: Pair) -> Figures:
    """Read everything; raises Refusal with what does not fit together."""
    index = Index(pair)
    empty = check_index(pair, index)
    largest, last = _read_tokens(pair, index)
    longest = max((int(index.lengths[place].max()) for place in blocks_of(pair.sequences)), default=0)
    shortest = min((int(index.lengths[place].min()) for place in blocks_of(pair.sequences)), default=0)
    return Figures(longest, shortest, empty, largest, last)


def _read_tokens(pair: Pair, index: Index) -> tuple[int, dict[int, int]]:
    """Largest id, and the three commonest last ids of sequences."""
    import numpy as np

    if not pair.tokens:
        return 0, {}
    tokens = np.memmap(f"{pair.prefix}.bin", pair.dtype, "r")
    largest = 0
    for place in blocks_of(pair.tokens):
        block = tokens[place]
        largest = max(largest, int(block.max()))
        if int(block.min()) < 0:
            raise Refusal(f"{pair.prefix}.bin: a negative token id near token {place.start}; preprocess again")
    counts: dict[int, int] = {}
    for place in blocks_of(pair.sequences):
        ends = index.pointers[place] // tokens.itemsize + index.lengths[place] - 1
        ids, numbers = np.unique(tokens[ends], return_counts=True)
        for id_, number in zip(ids.tolist(), numbers.tolist(), strict=True):
            counts[id_] = counts.get(id_, 0) + number
    return largest, dict(sorted(counts.items(), key=lambda item: -item[1])[:3])


def lines_for_people(pair: Pair, figures: Figures) -> list[str]:
    """What is printed of a sound pair."""
    size = pair.tokens * dict(DTYPES.values())[pair.dtype]
    empty = f" ({figures.empty:,} empty)" if figures.empty else ""
    last = ", ".join(f"{id_} ({number / max(1, pair.sequences):.0%})" for id_, number in figures.last_tokens.items())
    lines = [
        f"{pair.prefix}: whole",
        f"  {counted(pair.documents, 'document')}{empty}, {counted(pair.sequences, 'sequence')}, {counted(pair.tokens, 'token')} "
        f"({pair.dtype}, {console.human_bytes(size)})",
        f"  {pair.tokens / max(1, pair.sequences):,.1f} tokens per sequence, shortest {figures.shortest:,}, "
        f"longest {figures.longest:,}; largest id {figures.largest_id}; last ids {last or 'none'}",
    ]
    made = Path(f"{pair.prefix}.json")
    if made.is_file():
        notes = _notes(made)
        if notes:
            lines.append(
                f"  {notes['tokenizer']}: {notes['vocabulary_size']:,} entries, end of document {notes['eod_id']}"
            )
    return lines


def _notes(path: Path) -> dict[str, Any]:
    """The figures that preprocessing left, or {} when they are not its own."""
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    wanted = ("tokenizer", "vocabulary_size", "eod_id")
    return notes if isinstance(notes, dict) and all(key in notes for key in wanted) else {}


def document_ids(pair: Pair, number: int) -> np.ndarray:
    """The token ids of one document; raises Refusal for a number that is not there."""
    import numpy as np

    if not 0 <= number < pair.documents:
        there = (
            f"documents 0 to {pair.documents - 1}" if pair.documents > 1 else f"{counted(pair.documents, 'document')}"
        )
        raise Refusal(f"--document {number}: {pair.prefix} has {there}{', number 0' if pair.documents == 1 else ''}")
    index = Index(pair)
    first, beyond = int(index.boundaries[number]), int(index.boundaries[number + 1])
    if first == beyond:
        return np.empty(0, pair.dtype)
    tokens = np.memmap(f"{pair.prefix}.bin", pair.dtype, "r")
    start = int(index.pointers[first]) // tokens.itemsize
    return np.array(tokens[start : start + int(index.lengths[first:beyond].sum(dtype=np.int64))])


def _decode(args: argparse.Namespace, pair: Pair, figures: Figures) -> list[str]:
    """Print a document; returns problems with the ids."""
    from nemo_workflow.data import dataset_stats
    from nemo_workflow.models.tokenizer_identity import MAKER, end_named, made_with, other_end
    from nemo_workflow.preprocess.tokenizer import examine, resolve_folder

    spec, reference = examine(args.tokenizer, resolve_folder(args.tokenizer), None, False)
    if figures.largest_id > spec.largest_id:
        return [
            f"{pair.prefix}.bin: holds token id {figures.largest_id}, but {args.tokenizer} has ids up to "
            f"{spec.largest_id}: it was made with another tokenizer"
        ]
    number, characters = args.document or 0, 2000 if args.characters is None else args.characters
    ids = document_ids(pair, number)
    said = dataset_stats.figures(pair)
    place = said.get("tokenizer_path")
    if not made_with(tuple(said.get(name) for name in MAKER), place, spec.folder):
        changed = place and Path(place).resolve() == spec.folder.resolve()
        maker = f"this tokenizer before it changed ({place})" if changed else f"another tokenizer ({place})"
        print(
            f"WARNING: {pair.prefix} was made with {maker}: by {args.tokenizer} its ids say something else",
            file=sys.stderr,
        )
    elif (end := other_end(said, spec.own_end, spec.eod)) and not end.chosen:
        print(
            f"WARNING: {pair.prefix}: its documents end with {end}, and {args.tokenizer} ends one with"
            f" {end_named(spec.own_end, spec.eod)}",
            file=sys.stderr,
        )
    text = reference.tokenizer.decode(ids[: 4 * characters].tolist(), skip_special_tokens=False)
    print(f"  document {number}, {counted(len(ids), 'token')}:")
    print(text[:characters] + (" …" if len(text) > characters else ""))
    return []
