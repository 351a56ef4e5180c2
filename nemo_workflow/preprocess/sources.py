"""Which files are the input, and under which names their outputs go. Light at import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nemo_workflow.preprocess.streams import open_text
from nemo_workflow.utils.errors import Refusal, os_errors_refused

TEXT_ENDINGS = (".jsonl", ".json", ".ndjson")
COMPRESSIONS = (".gz", ".zst", ".zstd")
ENDINGS = (*(t + c for t in TEXT_ENDINGS for c in ("", *COMPRESSIONS)), ".parquet")
KNOWN = ".jsonl, .json (one object a line), .ndjson, each also .gz or .zst, and .parquet"
# What else holds text or packs it: a folder's files that are not read are named when they look like data.
OTHER_DATA = (
    *(".txt", ".text", ".csv", ".tsv", ".xml", ".html", ".warc", ".jl", ".jsonlines", ".pq", ".arrow", ".feather"),
    *(
        ".orc",
        ".avro",
        ".tfrecord",
        ".gz",
        ".zst",
        ".zstd",
        ".bz2",
        ".xz",
        ".lz4",
        ".lzma",
        ".zip",
        ".tar",
        ".tgz",
        ".7z",
    ),
)
CHECKSUMS = (".sha256", ".sha1", ".md5", ".asc", ".sig")
NO_DATA = ("readme", "license", "licence", "notice", "changelog", "sha256sum", "md5sum", "checksum", "requirements")


@dataclass(frozen=True)
class Source:
    """One input file; `prefix` names its outputs."""

    path: Path
    prefix: str

    @property
    def is_parquet(self) -> bool:
        return self.path.name.lower().endswith(".parquet")

    @property
    def is_plain(self) -> bool:
        return self.path.name.lower().endswith(TEXT_ENDINGS)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def stems(self, keys: tuple[str, ...]) -> list[str]:
        """The names of its pairs, without ending."""
        return [f"{self.prefix}_{key}_document" for key in keys]


@dataclass
class _Found:
    """What the flags led to, what is wrong with it, and what is said of it."""

    sources: list[Source] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_sources(
    paths: list[str], folder: str | None, prefixes: list[str], keys: tuple[str, ...]
) -> tuple[list[Source], list[str]]:
    """The inputs that --input, or --input-dir and --data-prefix, name, and notes; raises Refusal with every problem."""
    found = _Found()
    for name in paths:
        with os_errors_refused(f"--input {name}"):
            _add(Path(name), f"--input {name}", found)
    if folder is not None:
        with os_errors_refused(f"--input-dir {folder}"):
            _add_folder(Path(folder), prefixes, f"--input-dir {folder}", found)
    for source in found.sources:
        with os_errors_refused(str(source.path)):
            found.problems += _wrong_file(source)
    found.problems += _same_outputs(found.sources, keys)
    if found.problems:
        raise Refusal(found.problems)
    return found.sources, found.notes


def _stem(path: Path) -> str | None:
    """The name without its ending, or None for an ending that is not known."""
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if path.name.lower().endswith(ending) and len(path.name) > len(ending):
            return path.name[: -len(ending)]
    return None


def _add(path: Path, flag: str, found: _Found) -> None:
    if path.is_dir():
        _add_all_in(path, flag, found)
    else:
        _add_file(path, flag, found)


def _add_file(path: Path, flag: str, found: _Found) -> None:
    stem = _stem(path)
    if not path.exists():
        found.problems.append(f"{flag}: {_missing(path)}")
    elif stem is None:
        found.problems.append(f"{flag}: not an ending that is read here ({KNOWN})")
    else:
        found.sources.append(Source(path, stem))


def _missing(path: Path) -> str:
    return "a link that leads nowhere; mend or remove it" if path.is_symlink() else "no such file"


def _add_folder(folder: Path, prefixes: list[str], flag: str, found: _Found) -> None:
    if not prefixes and folder.exists():
        _add(folder, flag, found)
    elif not folder.is_dir():
        found.problems.append(f"{flag}: no such folder")
    else:
        for prefix in prefixes:
            _add_prefix(folder, prefix, found)


def _add_prefix(folder: Path, prefix: str, found: _Found) -> None:
    inner, name = os.path.split(prefix)
    there = sorted((folder / inner).iterdir()) if (folder / inner).is_dir() else []
    files = [path for path in there if _stem(path) and not path.is_dir()]
    matches = [path for path in files if name in (path.name, _stem(path))]
    if not matches:
        have = ", ".join(str(_stem(path)) for path in files[:8]) or "no input files"
        found.problems.append(f"--data-prefix {prefix}: no {prefix}.jsonl (or {KNOWN}) in {folder}; it has: {have}")
    elif len(matches) > 1:
        found.problems.append(
            f"--data-prefix {prefix}: {' and '.join(path.name for path in matches)} are both in {folder}; "
            "give the whole file name, or move one away"
        )
    else:
        _add_file(matches[0], f"--data-prefix {prefix}", found)


def _add_all_in(folder: Path, flag: str, found: _Found) -> None:
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    lost = [path for path in there if _stem(path) and path.is_symlink() and not path.exists()]
    files = [path for path in there if _stem(path) and path.is_file()]
    found.problems += [f"{path}: {_missing(path)}" for path in lost]
    found.sources += [Source(path, str(_stem(path))) for path in files]
    known = {*files, *lost}
    passed_over = [path.name for path in there if path not in known and _looks_like_data(path)]
    more = f" and {len(passed_over) - 8} more" if len(passed_over) > 8 else ""
    said = f"passed over, no input file: {', '.join(passed_over[:8])}{more}" if passed_over else ""
    if not files and not lost:
        found.problems.append(f"{flag}: no input files in it ({KNOWN}){said and f'; {said}'}")
    elif said:
        found.notes.append(f"WARNING: {flag}: {said}")


def _looks_like_data(path: Path) -> bool:
    name = path.name.lower()
    if name.startswith(NO_DATA) or name.endswith(CHECKSUMS):
        return False
    # docs.jsonl.part, a folder docs.parquet
    return any(ending in name for ending in (".jsonl", ".ndjson", ".parquet")) or (
        name.endswith((*OTHER_DATA, *ENDINGS)) and not path.is_dir()
    )


def _same_outputs(sources: list[Source], keys: tuple[str, ...]) -> Iterator[str]:
    """Inputs of which two pairs would have one name, be it that a prefix goes on as a key begins: a_b and key c, a and b_c."""
    by_stem: dict[str, Source] = {}
    for source in sources:
        others = [(by_stem[stem], stem) for stem in source.stems(keys) if stem in by_stem]
        by_stem.update((stem, source) for stem in source.stems(keys))
        if others:
            other, stem = others[0]
            yield (
                f"{source.path}: its output would have the name of that of {other.path} ({stem}); "
                "rename one of them, or give each an --output-dir of its own"
            )


def not_utf8(text: str | os.PathLike[str]) -> bool:
    """Whether a name from the command line or the disk holds bytes that are no UTF-8, which no JSON and no terminal takes."""
    try:
        os.fspath(text).encode()
    except UnicodeEncodeError:
        return True
    return False


def _wrong_file(source: Source) -> Iterator[str]:
    if not_utf8(source.path.absolute()):
        yield f"{source.path}: its name is not UTF-8; rename it"
    elif not os.access(source.path, os.R_OK):
        yield f"{source.path}: not readable; check its permissions"
    elif source.size == 0:
        yield f"{source.path}: empty; there is nothing to train on"
    elif not source.is_parquet:
        yield from _wrong_kind(source)


def _wrong_kind(source: Source) -> Iterator[str]:
    """Files that are no JSON lines at all, told by their first bytes."""
    try:
        with open_text(source.path) as stream:
            head = stream.read(4096)
    except Refusal as refusal:
        yield from refusal.problems
        return
    except (OSError, EOFError, ValueError) as error:
        yield f"{source.path}: not what its ending says: {error}"
        return
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield f"{source.path}: UTF-16; convert it first: iconv -f UTF-16 -t UTF-8"
    elif head.startswith(b"\x1f\x8b"):
        yield f"{source.path}: gzip data without a .gz ending; rename it"
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        yield f"{source.path}: zstandard data without a .zst ending; rename it"
    elif source.path.suffix.lower() == ".json" and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield f"{source.path}: one JSON array, not an object a line; convert it first: jq -c '.[]'"
