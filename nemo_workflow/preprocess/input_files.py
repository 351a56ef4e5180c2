"""Which files are the input: folders with all below them, quoted globs, lists of names."""

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nemo_workflow.preprocess.sources import (
    KNOWN,
    OF_DATASETS,
    TABLES,
    TEXTS,
    Source,
    blank,
    looks_like_data,
    no_data,
    reads_as_lines,
    stem_of,
    to_utf8,
    what_else,
    wrong_file,
)
from nemo_workflow.utils.arguments import UNSET
from nemo_workflow.utils.errors import Refusal, os_errors_refused
from nemo_workflow.utils.files import from_here
from nemo_workflow.utils.folder_kinds import TEXT, meant, never_text
from nemo_workflow.utils.text_coding import coding_of

REMOTE = {
    "hf://datasets/": "hf download NAME --repo-type dataset --local-dir DIR",
    "hf://": "hf download NAME --repo-type dataset --local-dir DIR",
    "s3://": "aws s3 cp --recursive SOURCE DIR",
    "gs://": "gcloud storage cp --recursive SOURCE DIR",
    "https://": "curl -O SOURCE",
    "http://": "curl -O SOURCE",
}
ANY_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
SHOWN = 8  # names in one line
LOOKED_AT = 4096  # bytes of a file whose name says nothing


@dataclass(frozen=True)
class _Input:
    """A file, and the folder that its name is told from."""

    path: Path
    root: Path


@dataclass
class _Found:
    """What the flags led to, what is wrong with it, and what is said of it."""

    inputs: list[_Input] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_sources(
    paths: Sequence[str], folders: Sequence[str], prefixes: Sequence[str], output: Path
) -> tuple[list[Source], list[str]]:
    """The inputs that --input, or --input-dir and --data-prefix, name, and notes; raises Refusal with every problem.

    `output` is the folder of the pairs: what lies in it is no input.
    """
    found = _Found()
    for name in _expanded(paths, found):
        with os_errors_refused(f"--input {name}"):
            _add(name, f"--input {name}", output, found)
    for name in folders:
        if (why := _elsewhere(name)) is not None:
            found.problems.append(f"--input-dir {name}: {why}")
            continue
        with os_errors_refused(f"--input-dir {name}"):
            _add_folder(Path(name).expanduser(), prefixes, f"--input-dir {name}", output, found)
    if prefixes and folders:
        _check_prefixes(prefixes, folders, found)
    sources = _named(_once(found))
    for source in sources:
        with os_errors_refused(str(source.path)):
            found.problems += wrong_file(source)
    if found.problems:
        raise Refusal(found.problems)
    if lines := [str(source.path) for source in sources if reads_as_lines(source)]:
        found.notes.append(
            f"WARNING: JSON lines, read as plain text with their braces and quotes; to read the text in them rename them to .jsonl: {_some(lines)}"
        )
    return _without_empty(sources, found), found.notes


def _expanded(paths: Sequence[str], found: _Found) -> Iterator[str]:
    """The names themselves, those in an @list and those on standard input (-)."""
    for number, name in enumerate(paths):
        if name == "-" and "-" in paths[:number]:
            continue
        if name == "-":
            yield from _listed(sys.stdin.buffer.read(), "--input -", found)
        elif name.startswith("@") and not Path(name).exists():
            path = Path(name[1:]).expanduser()
            if not path.is_file():
                unset = f"; {UNSET}" if name == "@" else ""
                said = f"no such list; @ is followed by a file with one name per line{unset}"
                found.problems.append(f"--input {name}: {said}")
                continue
            with os_errors_refused(f"--input {name}"):
                data = path.read_bytes()
            yield from (_beside(line, path.parent) for line in _listed(data, f"--input {name}", found))
        else:
            yield name


def _listed(data: bytes, flag: str, found: _Found) -> Iterator[str]:
    """File names, a line each, or between zero bytes as `find -print0` writes them; blank lines and comments are none."""
    # names between zero bytes are no text in UTF-32 or UTF-16
    if coding := coding_of(data[:LOOKED_AT]):
        found.problems.append(f"{flag}: {coding}; convert it first: {to_utf8(coding)}")
        return
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] in (b"{", b"["):
        found.problems.append(
            f"{flag}: JSON, but names of files are expected; write the text into a file, and name that"
        )
        return
    if b"\0" in data:
        names = [os.fsdecode(name) for name in data.split(b"\0") if name]
    else:
        lines = [os.fsdecode(line.removesuffix(b"\r")) for line in data.split(b"\n")]
        # a name may begin or end with a space, or begin with #, if such a file is there
        names = [line if os.path.lexists(line) else line.strip() for line in lines if line.strip()]
        names = [name for name in names if not name.startswith("#") or os.path.lexists(name)]
    inner = [name for name in names if name == "-" or (name.startswith("@") and not os.path.lexists(name))]
    if inner:
        found.problems.append(f"{flag}: {inner[0]}: a list within a list is not read; give it to --input itself")
    elif not names:
        found.problems.append(f"{flag}: no names in it; write one file or folder per line")
    else:
        yield from names


def _beside(name: str, folder: Path) -> str:
    """A relative name in a list is told from where the command runs, or, if nothing is there, from the list's folder."""
    path = Path(name).expanduser()
    if path.is_absolute() or ANY_SCHEME.match(name) or os.path.lexists(path) or glob.glob(name):  # noqa: PTH207
        return name
    other = folder / path
    return str(other) if os.path.lexists(other) or glob.glob(str(other)) else name  # noqa: PTH207


def _elsewhere(name: str) -> str | None:
    """What to say to a name that is no file of this machine, or to one that only --input takes, where it stands for a folder."""
    scheme = ANY_SCHEME.match(name)
    if scheme is None:
        return None
    if scheme[1].lower() == "file":
        return f"give the path itself: {name[7:]}"
    for known, how in REMOTE.items():
        if name.lower().startswith(known):
            place = "/".join(name[len(known) :].split("/")[:2])
            said = how.replace("SOURCE", name).replace("NAME", place)
            return f"not on this machine; bring it here first: {said}"
    return "not on this machine; bring it here first"


def _add(name: str, flag: str, output: Path, found: _Found) -> None:
    if (why := _elsewhere(name)) is not None:
        found.problems.append(f"{flag}: {why}")
        return
    path = Path(name).expanduser()
    if path.is_dir():
        _add_tree(path, flag, output, found)
    elif glob.has_magic(name) and not path.exists():
        _add_glob(str(path), flag, output, found)
    else:
        _add_file(path, path.parent, flag, found)


def _add_glob(pattern: str, flag: str, output: Path, found: _Found) -> None:
    parts = Path(pattern).parts
    plain = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:plain]) if plain else Path()
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207 - a pattern with a place of its own, ** and all
    chosen = [path for path in paths if stem_of(path) and path.is_file() and not _of_this_program(path)]
    others = [path for path in paths if path.is_file() and path not in set(chosen) and looks_like_data(path)]
    for path in paths:
        if path.is_dir() and "**" not in parts:
            _add_tree(path, flag, output, found, root)
    if others:
        found.notes.append(f"WARNING: {flag}: skipped, not an input file: {_some([str(path) for path in others])}")
    if not paths:
        found.problems.append(f"{flag}: no file matches{_braces(pattern)}")
    elif not chosen and not any(path.is_dir() for path in paths):
        found.problems.append(f"{flag}: no input files among the matches ({KNOWN})")
    found.inputs += [_Input(path, root) for path in chosen]


def _braces(name: str) -> str:
    return "; braces are the shell's: leave out the quotes, or give each name" if re.search(r"\{.*\}", name) else ""


def _add_file(path: Path, root: Path, flag: str, found: _Found) -> None:
    if not path.exists():
        found.problems.append(f"{flag}: {_missing(path)}{_braces(str(path))}")
    elif not path.is_file():
        found.problems.append(
            f"{flag}: a pipe or a device, and the text is read more than once; write it into a file, and name that"
        )
    elif stem_of(path) is None:
        found.problems.append(f"{flag}: not a file extension that is read here ({KNOWN}){_renamed(path)}")
    else:
        found.inputs.append(_Input(path, root))


def _renamed(path: Path) -> str:
    """What helps where a file of another extension, or of none, holds text, or another program's document."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        head = stream.read(LOOKED_AT)
    if known := what_else(path.name, head):
        return f"; {known}"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return ""
    if not head.strip() or b"\0" in head:
        return ""
    if path.suffix.lower() in (".csv", ".tsv"):
        tabs = ", sep='\\t'" if path.suffix.lower() == ".tsv" else ""
        command = f"import pandas; pandas.read_csv('OLD'{tabs}).to_parquet('NEW.parquet')"
        return f'; a table; make it one that is: python -c "{command}"'
    what, ending = ("JSON lines", ".jsonl") if head.lstrip()[:1] == b"{" else ("plain text", ".txt")
    return f"; if it is {what}, rename it: {path.with_suffix(ending).name}"


def _missing(path: Path) -> str:
    return "a broken symlink; fix or remove it" if path.is_symlink() else f"no such file{from_here(path)}"


def _add_folder(folder: Path, prefixes: Sequence[str], flag: str, output: Path, found: _Found) -> None:
    if not folder.is_dir():
        if folder.exists() and not prefixes:
            _add_file(folder, folder.parent, flag, found)
        else:
            listed = str(folder) == "-" or str(folder).startswith("@") or glob.has_magic(str(folder))
            found.problems.append(
                f"{flag}: no such folder{from_here(folder)}{'; --input takes patterns, lists and -' if listed else ''}"
            )
    elif not prefixes:
        _add_tree(folder, flag, output, found)
    for prefix in prefixes if folder.is_dir() else ():
        matches = _matches(folder, prefix)
        if len(matches) > 1:
            found.problems.append(
                f"--data-prefix {prefix}: {' and '.join(path.name for path in matches)} are both in {folder}; "
                "give the whole file name, or move one away"
            )
        for path in matches[:1]:
            _add_file(path, folder, f"--data-prefix {prefix}", found)


def _matches(folder: Path, prefix: str) -> list[Path]:
    inner, name = os.path.split(prefix)
    return [path for path in _files(folder / inner) if name in (path.name, stem_of(path))]


def _files(folder: Path) -> list[Path]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in there if stem_of(path) and not path.is_dir()]


def _check_prefixes(prefixes: Sequence[str], folders: Sequence[str], found: _Found) -> None:
    """Each prefix is in one of the folders."""
    there = [Path(name).expanduser() for name in folders]
    for prefix in prefixes:
        if not any(_matches(folder, prefix) for folder in there if folder.is_dir()):
            files = [path for folder in there for path in _files(folder / os.path.split(prefix)[0])]
            stems = Counter(map(stem_of, files))
            # two of one name have to be named whole
            names = [str(stem_of(path)) if stems[stem_of(path)] == 1 else path.name for path in files]
            have = _some(list(dict.fromkeys(names))) or "no input files"
            found.problems.append(
                f"--data-prefix {prefix}: no {prefix}.jsonl (or {KNOWN}) in {' or '.join(map(str, there))}; "
                f"it has: {have}"
            )


def _add_tree(folder: Path, flag: str, output: Path, found: _Found, root: Path | None = None) -> None:
    if never_text(folder):
        found.problems.append(f"{flag}: no text to learn from{meant(folder, TEXT, flag)}; name the folder of your text")
        return
    before, lost = len(found.inputs), len(found.problems)
    passed_over: list[str] = []
    for path in _walk(folder, {_identity(folder)}, output.resolve(), found):
        if path.is_symlink() and not path.exists():
            if stem_of(path):
                found.problems.append(f"{path}: {_missing(path)}")
        elif stem_of(path) and not _of_this_program(path) and not _a_readme(path):
            if not _of_datasets(path):
                found.inputs.append(_Input(path, folder if root is None else root))
            elif path.name.startswith("cache-"):
                passed_over.append(str(path.relative_to(folder)))
        elif looks_like_data(path) and not _of_this_program(path):
            passed_over.append(str(path.relative_to(folder)))
    said = f"skipped, not an input file: {_some(passed_over)}" if passed_over else ""
    if len(found.inputs) == before and len(found.problems) == lost:
        found.problems.append(
            f"{flag}: no input files in it ({KNOWN}){said and f'; {said}'}{meant(folder, TEXT, flag)}"
        )
    elif said:
        found.notes.append(f"WARNING: {flag}: {said}")


def _a_readme(path: Path) -> bool:
    """README.md, LICENSE.txt: what lies beside data and is none of it."""
    return any(ending in path.name.lower() for ending in TEXTS) and no_data(path)


def _walk(folder: Path, above: set[tuple[int, int]], output: Path, found: _Found) -> Iterator[Path]:
    """All files below a folder in order, hidden ones left out; links to folders are followed unless they lead back."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or os.path.realpath(path) == str(output):
            continue
        if not path.is_dir():
            yield path
        elif (identity := _identity(path)) in above:
            found.problems.append(f"{path}: a symlink back to a folder above it, which never ends; remove it")
        else:
            yield from _walk(path, above | {identity}, output, found)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _of_this_program(path: Path) -> bool:
    """The figures of a pair and the list of its bad lines, in a folder that holds both text and pairs."""
    if path.suffix == ".json":
        return path.with_suffix(".idx").exists()
    return path.name.endswith(".rejects.jsonl") and any(
        path.parent.glob(f"{glob.escape(path.name[: -len('.rejects.jsonl')])}_*_document.idx")
    )


def _of_datasets(path: Path) -> bool:
    """What the datasets library keeps beside the .arrow files of a data set: descriptions and caches."""
    if path.name in OF_DATASETS:
        return any(path.parent.glob("*.arrow")) or any(path.parent.glob("*/*.arrow"))
    return path.suffix == TABLES[1] and path.name.startswith("cache-") and (path.parent / "state.json").exists()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _once(found: _Found) -> list[_Input]:
    """Every file once, however often it is named."""
    seen: dict[Path, _Input] = {}
    again = []
    for each in found.inputs:
        real = Path(os.path.realpath(each.path))
        if real in seen:
            again.append(str(each.path))
        seen.setdefault(real, each)
    if again:
        found.notes.append(f"named more than once and read once: {_some(again)}")
    return list(seen.values())


def _named(inputs: list[_Input]) -> list[Source]:
    """Each with the name of its outputs: its place below what was given, and what is above where two would be one."""
    names = [(each.path.relative_to(each.root).parent / str(stem_of(each.path))).as_posix() for each in inputs]
    roots: dict[str, set[Path]] = defaultdict(set)
    for name, each in zip(names, inputs, strict=True):
        roots[name].add(each.root.absolute())
    shared = {name: Path(os.path.commonpath(places)) for name, places in roots.items() if len(places) > 1}
    out = []
    for name, each in zip(names, inputs, strict=True):
        if name in shared:
            name = (each.root.absolute().relative_to(shared[name]) / name).as_posix()
        name = _not_hidden(name)
        inner = each.path.relative_to(each.root).parts
        root = each.root.resolve()
        out.append(Source(each.path, name, _not_hidden(inner[0]) if len(inner) > 1 else root.name or "root"))
    return out


def _not_hidden(name: str) -> str:
    """Folders that were named outright may be hidden; those of the pairs are not, or nobody who looks for pairs finds them."""
    return "/".join(part if part.strip(".") == "" else part.lstrip(".") for part in name.split("/"))


def _without_empty(sources: list[Source], found: _Found) -> list[Source]:
    said = {source: "empty" for source in sources if source.size == 0}
    said |= {source: "holds white space alone" for source in sources if source.size and blank(source)}
    empty = [str(source.path) for source in said]
    if len(empty) == len(sources):
        raise Refusal([f"{source.path}: {what}; there is no text in it" for source, what in said.items()])
    if empty:
        files = "1 empty file" if len(empty) == 1 else f"{len(empty)} empty files"
        found.notes.append(f"skipped {files}: {_some(empty)}")
    return [source for source in sources if source not in said]
