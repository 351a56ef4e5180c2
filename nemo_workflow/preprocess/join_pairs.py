"""python -m nemo_workflow.dataset join: several .bin/.idx pairs of any maker's as one, as megatron-core's builder joins them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nemo_workflow.data.index_check import Index, blocks_of
from nemo_workflow.data.indexed_dataset import DTYPES, HEADER, MAGIC, VERSION, Pair, find_prefixes, read_pair
from nemo_workflow.models.tokenizer_identity import MAKER, OWN_END
from nemo_workflow.preprocess.output_dir import OutputFolder, disk_errors
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.meant import called

if TYPE_CHECKING:
    import numpy as np

COPY = 64 << 20  # bytes at a time
BYTES, CONTENT = MAKER
# What preprocessing says of a pair and what must be the same in all that are joined.
SAME = (BYTES, "vocabulary_size", "eod_id", "append_eod")
KEPT = (
    "tokenizer",
    "tokenizer_path",
    CONTENT,
    *SAME,
    "eod_token",
    OWN_END,
    "ids_before_text",
    "ids_after_text",
    "dtype",
)


MEANINGS = called(
    {"--overwrite": "force"},
    {"output out output-dir output-prefix output-path input inputs": "the names stand by themselves: join OUT A B"},
)


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m nemo_workflow.dataset join",
        meanings=MEANINGS,
        description="Join .bin/.idx pairs into one, documents in the order given; each is read whole and checked first.",
    )
    p.add_argument("out", metavar="OUT", help="the pair to write, without extension")
    p.add_argument("pairs", metavar="DIR_OR_PREFIX", nargs="+", help="pairs without extension, or folders of them")
    p.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")
    return p


def main(argv: Sequence[str], check: Callable[[Pair], Any]) -> int:
    """Join; `check` reads a pair whole, tells its `largest_id`, and raises Refusal."""
    args = parser().parse_args(argv)
    out = _without_ending(args.out)
    pairs, figures = _checked(args.pairs, out, check)
    there = [path for ending in ("bin", "idx") if (path := Path(f"{out}.{ending}")).exists()]
    if there and not args.overwrite:
        raise Refusal(f"{there[0]}: exists already; --overwrite replaces it")
    said = [_said(pair) for pair in pairs]
    _check_makers(pairs, said)
    with disk_errors(out.parent, "; nothing was written"), OutputFolder(out.parent, args.overwrite) as folder:
        aside = folder.run_dir / out.name
        with Path(f"{aside}.bin").open("wb") as stream:
            for pair in pairs:
                _copy(Path(f"{pair.prefix}.bin"), stream)
        with Path(f"{aside}.idx").open("wb") as stream:
            _write_index(stream, pairs)
        about = _about(pairs, said, max(each.largest_id for each in figures))
        Path(f"{aside}.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        # the .idx last: without it no reader takes the pair
        for ending in ("json", "bin", "idx"):
            folder.move(f"{out.name}.{ending}")
        folder.commit(remove=[])
    documents, tokens = (sum(getattr(pair, name) for pair in pairs) for name in ("documents", "tokens"))
    print(f"{out}: {counted(len(pairs), 'pair')}, {counted(documents, 'document')}, {counted(tokens, 'token')}")
    return 0


def _without_ending(name: str) -> Path:
    path = Path(name).expanduser().absolute()
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def _checked(names: Sequence[str], out: Path, check: Callable[[Pair], Any]) -> tuple[list[Pair], list[Any]]:
    problems: list[str] = []
    pairs, figures = [], []
    for name in names:
        path = Path(name).expanduser()
        for prefix in find_prefixes(path, "DIR_OR_PREFIX") if path.is_dir() else [_without_ending(name)]:
            try:
                pairs.append(read_pair(prefix.absolute()))
                figures.append(check(pairs[-1]))
            except Refusal as refusal:
                problems += refusal.problems
    for number, pair in enumerate(pairs):
        if pair.prefix in [other.prefix for other in pairs[:number]]:
            problems.append(f"{pair.prefix}: named twice; name it once")
        if Path(pair.prefix) == out:
            problems.append(f"{pair.prefix}: would be read and overwritten; give OUT another name")
    kinds = {pair.dtype: pair for pair in pairs}
    if len(kinds) > 1:
        what = ", ".join(f"{pair.prefix} holds {dtype}" for dtype, pair in kinds.items())
        problems.append(f"pairs of different number types cannot be joined: {what}; preprocess them with one tokenizer")
    if problems:
        raise Refusal(problems)
    return pairs, figures


def _said(pair: Pair) -> dict[str, Any]:
    from nemo_workflow.data.dataset_stats import figures

    return figures(pair)


def _check_makers(pairs: list[Pair], said: list[dict[str, Any]]) -> None:
    """Refuse pairs whose figures name different tokenizers; those without figures are believed."""
    contents = {each.get(CONTENT) for each in said if BYTES in each}
    saved_again = len(contents) == 1 and None not in contents
    for name in (name for name in SAME if not (saved_again and name == BYTES)):
        shown = "tokenizer_path" if name == BYTES else name
        known = {
            json.dumps(each[name]): f"{each.get(shown, 'another')} in {pair.prefix}"
            for pair, each in zip(pairs, said, strict=True)
            if name in each
        }
        if len(known) > 1:
            what = ", ".join(known.values())
            if name == BYTES:
                raise Refusal(
                    f"they were made with different tokenizers ({what}), whose ids mean other texts; preprocess them with one"
                )
            raise Refusal(f"their figures differ in {name} ({what}); preprocess them in the same way")


def _about(pairs: list[Pair], said: list[dict[str, Any]], largest: int) -> dict[str, Any]:
    """The figures of the joined pair."""
    common = {
        name: said[0][name] for name in KEPT if all(name in each and each[name] == said[0][name] for each in said)
    }
    return {
        "joined_from": [pair.prefix for pair in pairs],
        **common,
        "documents": sum(pair.documents for pair in pairs),
        "tokens": sum(pair.tokens for pair in pairs),
        "largest_token_id": largest,
    }


def _copy(path: Path, out: IO[bytes]) -> None:
    """Append a file, without bringing it into this process where the disks can do that."""
    with path.open("rb", buffering=0) as source:
        left = os.fstat(source.fileno()).st_size
        while left:
            try:
                done = os.copy_file_range(source.fileno(), out.fileno(), min(COPY, left))
            except OSError:
                done = os.sendfile(out.fileno(), source.fileno(), None, min(COPY, left))
            if not done:
                raise Refusal(f"{path}: shrank while it was read; nothing was written")
            left -= done


def _write_index(out: IO[bytes], pairs: list[Pair]) -> None:
    """megatron-core 0.15.3, IndexedDatasetBuilder.add_index: lengths in a row, pointers counted on, boundaries shifted."""
    import numpy as np

    width, code = next((width, code) for code, (name, width) in DTYPES.items() if name == pairs[0].dtype)
    documents = sum(pair.documents for pair in pairs)
    out.write(HEADER.pack(MAGIC, VERSION, code, sum(pair.sequences for pair in pairs), documents + 1))
    for lengths in _lengths(pairs):
        out.write(lengths.tobytes())
    at = 0
    for lengths in _lengths(pairs):
        ends = at + np.cumsum(lengths, dtype=np.int64) * width
        out.write((ends - lengths.astype(np.int64) * width).tobytes())
        at = int(ends[-1])
    out.write(np.zeros(1, np.int64).tobytes())
    before = 0
    for pair in pairs:
        index = Index(pair)
        for place in blocks_of(pair.documents):
            out.write((index.boundaries[place.start + 1 : place.stop + 1] + before).astype(np.int64).tobytes())
        before += pair.sequences


def _lengths(pairs: list[Pair]) -> Iterator[np.ndarray]:
    for pair in pairs:
        index = Index(pair)
        for place in blocks_of(pair.sequences):
            yield index.lengths[place]
