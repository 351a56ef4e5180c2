"""Megatron .bin/.idx pairs: where they lie and what their headers say. Imports no numpy.

`python -m nemo_workflow.dataset DIR` checks pairs whole and prints their figures (dataset_report).

Format of the .idx (megatron-core, indexed_dataset.py): magic, uint64 version, uint8 dtype code, uint64 number of
sequences, uint64 number of document boundaries, int32 lengths, int64 byte pointers, int64 document boundaries.
"""

from __future__ import annotations

import fcntl
import functools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute, flock, from_here, preprocessing_of
from nemo_workflow.utils.folder_kinds import DATA, meant

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
RUN_DIR_PREFIX = ".preprocess-"  # a preprocessing run's own folder beside the pairs it is to replace
OUTPUT_NAME = "preprocessed"  # the folder that preprocessing writes into
TEXTS = (".txt", ".md", ".json", ".ndjson", ".parquet", ".arrow")  # what preprocessing reads; also packed
COMMIT_NAME = "commit.json"  # in the run's folder while files are renamed
LOCK_NAME = "lock"  # in the run's folder; held while the run lives
DTYPES = {
    1: ("uint8", 1),
    2: ("int8", 1),
    3: ("int16", 2),
    4: ("int32", 4),
    5: ("int64", 8),
    8: ("uint16", 2),
}


@dataclass(frozen=True)
class Pair:
    """One .bin/.idx pair. `prefix` is the path without its ending; `tokens` counts end-of-document tokens too."""

    prefix: str
    dtype: str
    sequences: int
    documents: int
    tokens: int


def read_pair(prefix: str | Path) -> Pair:
    """Read the header of PREFIX.idx and check it against PREFIX.bin in constant time; raises Refusal."""
    idx, bin_ = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    if not idx.is_file() and not bin_.is_file():
        raise Refusal(
            f"{prefix}: no such folder or pair{from_here(prefix)}; give a folder of .bin/.idx files, or a pair without its ending"
        )
    for path, other in ((idx, bin_), (bin_, idx)):
        if not path.is_file():
            raise Refusal(f"{path}: missing, though {other.name} is there; preprocess this file again")
    for commit in _commits_above(idx):
        raise Refusal(f"{commit.parent}: a preprocessing run was killed while it renamed its files; run it again first")
    size = idx.stat().st_size
    with idx.open("rb") as stream:
        header = stream.read(HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise Refusal(f"{idx}: not a Megatron index; preprocess this file again")
        _, version, code, sequences, boundaries = HEADER.unpack(header)
        if version != VERSION or code not in DTYPES:
            raise Refusal(f"{idx}: index version {version}, dtype code {code}; expected version {VERSION}")
        expected = HEADER.size + sequences * 12 + boundaries * 8
        if size != expected:
            raise Refusal(f"{idx}: truncated: {size} bytes instead of {expected}; preprocess this file again")
        dtype, width = DTYPES[code]
        end = _end_of_tokens(stream, sequences, width)
        if boundaries < 1 or _last_boundary(stream, sequences, boundaries) != sequences:
            # megatron-core's IndexedDataset asserts it, in the ranks and without a word
            raise Refusal(
                f"{idx}: its documents do not cover its sequences (a merge that lost some leaves this); preprocess again, or "
                "join the pairs it was made of: python -m nemo_workflow.dataset join"
            )
    if bin_.stat().st_size != end:
        raise Refusal(f"{bin_}: {bin_.stat().st_size} bytes, but its .idx describes {end}; preprocess this file again")
    return Pair(str(prefix), dtype, sequences, max(0, boundaries - 1), end // width)


def _end_of_tokens(stream: IO[bytes], sequences: int, width: int) -> int:
    """Bytes of the .bin that the last sequence's pointer and length lead to."""
    if not sequences:
        return 0
    stream.seek(HEADER.size + 4 * (sequences - 1))
    (length,) = struct.unpack("<i", stream.read(4))
    stream.seek(HEADER.size + 4 * sequences + 8 * (sequences - 1))
    (pointer,) = struct.unpack("<q", stream.read(8))
    return int(pointer + length * width)


def _last_boundary(stream: IO[bytes], sequences: int, boundaries: int) -> int:
    stream.seek(HEADER.size + 12 * sequences + 8 * (boundaries - 1))
    return int(struct.unpack("<q", stream.read(8))[0])


def _commits_above(idx: Path) -> Iterator[Path]:
    """Renames half done in the folder of a pair, or in the preprocessed/ that it lies in."""
    places = [idx.parent]
    if OUTPUT_NAME in idx.parts:
        places = [place for place in idx.parents if OUTPUT_NAME in place.parts]
    for place in places:
        for run_dir in _run_dirs(place, place.stat().st_mtime_ns):
            if (commit := run_dir / COMMIT_NAME).exists():
                yield commit


@functools.lru_cache(maxsize=64)
def _run_dirs(place: Path, changed: int) -> tuple[Path, ...]:
    """The folders of preprocessing runs in one that was last changed then: it is asked for each of thousands of pairs in it."""
    return tuple(place.glob(f"{RUN_DIR_PREFIX}*"))


def find_prefixes(folder: str | Path, flag: str = "--dataset-dir") -> list[Path]:
    """Prefixes of all pairs in a folder or in its preprocessed/, sorted; raises Refusal when there are none.

    A preprocessed/ is searched with all folders below it. One file of a pair stands for the pair. `flag` is what the
    refusal blames.
    """
    folder = Path(folder)
    if folder.suffix in (".bin", ".idx") and folder.is_file():
        return [absolute(folder.with_suffix(""))]
    if folder.is_file():
        raise Refusal(f"{flag} {folder}: {what_file(folder)}{meant(folder, DATA, '--dataset-dir')}")
    if not folder.is_dir():
        raise Refusal(
            f"{flag} {folder}: no such folder or pair{from_here(folder)}; run preprocess_data.sh, or correct the path"
            f"{meant(folder, DATA, '--dataset-dir')}"
        )
    places = (folder, folder / OUTPUT_NAME)
    for place in places:
        below = _pairs_below(place) if OUTPUT_NAME in place.absolute().parts else ()
        names = sorted({*_pairs_in(place), *below})
        if names:
            return [absolute(name) for name in names]
    what = meant(folder, DATA, "--dataset-dir")
    wanted = "here the --output-dir of preprocess_data.sh is wanted" if what else "run preprocess_data.sh first"
    unfinished = [run_dir for place in places for run_dir in place.glob(f"{RUN_DIR_PREFIX}*")]
    if any(map(_lives, unfinished)):
        what, wanted = ", and a preprocessing into it is still at work", "wait for its end"
    elif unfinished:
        what, wanted = (
            ", and a preprocessing into it was interrupted",
            "the same preprocess_data.sh command finishes it",
        )
    raise Refusal(f"{flag} {folder}: no .bin/.idx files in it or in its preprocessed/{what}; {wanted}")


def _lives(run_dir: Path) -> bool:
    """Whether the preprocessing run of this folder is at work: it holds the lock, or is another user's, which can't be known."""
    try:
        with (run_dir / LOCK_NAME).open("rb") as stream:
            flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def what_file(path: Path) -> str:
    """What to do with a file where a folder of pairs is expected."""
    if path.with_suffix(".idx").is_file():
        return f"is one file of a pair; give the pair, without an ending: {path.with_suffix('')}"
    if any(ending in path.name.lower() for ending in TEXTS):
        return f"is text, and training reads what preprocessing makes of it: {preprocessing_of(path)}"
    return "is a file; give the --output-dir of preprocess_data.sh, another folder of .bin/.idx files, or a pair without its ending"


def _pairs_in(folder: Path) -> Iterator[Path]:
    for pattern in ("*.bin", "*.idx"):
        yield from (path.with_suffix("") for path in folder.glob(pattern))


def _pairs_below(folder: Path) -> Iterator[Path]:
    """In the folders of a preprocessed/, which has the tree of its input; not in hidden ones."""
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (Path(place, name).with_suffix("") for name in names if name.endswith((".idx", "_document.bin")))
