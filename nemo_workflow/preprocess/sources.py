"""Which files are the input, and under which names their outputs go. Light at import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.errors import Refusal
from nemo_workflow.preprocess.streams import open_text

TEXT_ENDINGS = (".jsonl", ".json", ".ndjson")
COMPRESSIONS = (".gz", ".zst", ".zstd")
ENDINGS = (*(t + c for t in TEXT_ENDINGS for c in ("", *COMPRESSIONS)), ".parquet")
KNOWN = ".jsonl, .json (one object a line), .ndjson, each also .gz or .zst, and .parquet"


@dataclass(frozen=True)
class Source:
    """One input file; `prefix` names its outputs."""

    path: Path
    prefix: str

    @property
    def is_parquet(self) -> bool:
        return self.path.name.endswith(".parquet")

    @property
    def is_plain(self) -> bool:
        return self.path.name.endswith(TEXT_ENDINGS)

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def find_sources(paths: list[str], folder: str | None, prefixes: list[str]) -> list[Source]:
    """The inputs that --input, or --input-dir and --data-prefix, name; raises Refusal with every problem."""
    problems: list[str] = []
    sources: list[Source] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            sources += _all_in(path, f"--input {name}", problems)
        else:
            _add_file(path, f"--input {name}", sources, problems)
    if folder is not None:
        where = Path(folder)
        if where.is_file() and not prefixes:
            _add_file(where, f"--input-dir {folder}", sources, problems)
        elif not where.is_dir():
            problems.append(f"--input-dir {folder}: no such folder")
        elif not prefixes:
            sources += _all_in(where, f"--input-dir {folder}", problems)
        for prefix in prefixes if where.is_dir() else ():
            _add_prefix(where, prefix, sources, problems)
    _check(sources, problems)
    if problems:
        raise Refusal(problems)
    return sources


def _stem(path: Path) -> str | None:
    """The name without its ending, or None for an ending that is not known."""
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if path.name.endswith(ending) and len(path.name) > len(ending):
            return path.name.removesuffix(ending)
    return None


def _add_file(path: Path, flag: str, sources: list[Source], problems: list[str]) -> None:
    stem = _stem(path)
    if not path.exists():
        problems.append(f"{flag}: no such file")
    elif stem is None:
        problems.append(f"{flag}: not an ending that is read here ({KNOWN})")
    else:
        sources.append(Source(path, stem))


def _add_prefix(folder: Path, prefix: str, sources: list[Source], problems: list[str]) -> None:
    names = [prefix, *(prefix + ending for ending in ENDINGS)]
    found = [folder / name for name in names if (folder / name).is_file() and _stem(folder / name)]
    if not found:
        have = ", ".join(sorted(stem for path in folder.iterdir() if (stem := _stem(path)))[:8]) or "no input files"
        problems.append(f"--data-prefix {prefix}: no {prefix}.jsonl (or {KNOWN}) in {folder}; it has: {have}")
    elif len(found) > 1:
        problems.append(
            f"--data-prefix {prefix}: {' and '.join(path.name for path in found)} are both in {folder}; "
            "give the whole file name, or move one away"
        )
    else:
        sources.append(Source(found[0], str(_stem(found[0]))))


def _all_in(folder: Path, flag: str, problems: list[str]) -> list[Source]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = [Source(path, stem) for path in files if (stem := _stem(path))]
    if not found:
        problems.append(f"{flag}: no input files in it ({KNOWN})")
    return found


def _check(sources: list[Source], problems: list[str]) -> None:
    by_prefix: dict[str, Path] = {}
    for source in sources:
        other = by_prefix.setdefault(source.prefix, source.path)
        if other is not source.path:
            problems.append(f"{source.path}: its output would have the name of that of {other}; rename one of them")
        if not os.access(source.path, os.R_OK):
            problems.append(f"{source.path}: not readable; check its permissions")
        elif source.size == 0:
            problems.append(f"{source.path}: empty; there is nothing to train on")
        elif not source.is_parquet:
            problems += _wrong_kind(source)


def _wrong_kind(source: Source) -> Iterator[str]:
    """Files that are no JSON lines at all, told by their first bytes."""
    try:
        with open_text(source.path) as stream:
            head = stream.read(4096)
    except (OSError, EOFError, ValueError) as error:
        yield f"{source.path}: not what its ending says: {error}"
        return
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield f"{source.path}: UTF-16; convert it first: iconv -f UTF-16 -t UTF-8"
    elif head.startswith(b"\x1f\x8b"):
        yield f"{source.path}: gzip data without a .gz ending; rename it"
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        yield f"{source.path}: zstandard data without a .zst ending; rename it"
    elif source.path.suffix == ".json" and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield f"{source.path}: one JSON array, not an object a line; convert it first: jq -c '.[]'"
