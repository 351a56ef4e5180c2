"""The checkpoints of a run: their names, which are whole, which one to resume from.

A checkpoint is a folder <run>/checkpoints/step_00000100 with weights/ and context/. While it is written, a file
step_00000100-unfinished lies beside it (NeMo's); manifest.json, with the size and hash of every file, comes last but
for the removal of that mark. So a folder with a manifest and without the mark was written to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.utils.files import fsync_dir, write_json

FILENAME = "step_{step:08d}"  # Lightning fills in the step
MANIFEST = "manifest.json"
UNFINISHED = "-unfinished"  # NeMo's marker beside the folder
REMOVING = ".removing-"  # prefix of a folder that is being removed
DAMAGED = "damaged"  # folder that damaged checkpoints are moved to
HASH = "xxh3_128"
NOTE = (
    ".hash"  # ending of a file beside a shard, with its hash by the process that wrote it; the manifest takes its place
)
NOTES_SECONDS = 10.0  # for which the writers of a save that failed may still hash what they have written
CHUNK = 1 << 22
SPACE_MARGIN = 1.02  # a checkpoint may be a little larger than the one before


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and the step it was taken after."""

    path: Path
    step: int

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def manifest(self) -> dict[str, Any]:
        """What write_manifest wrote; raises OSError or ValueError."""
        loaded = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(loaded, dict) or not isinstance(loaded.get("files"), dict):
            raise ValueError("no list of files")
        return loaded


def list_checkpoints(folder: str | Path) -> list[Checkpoint]:
    """Every step_* folder below <run>/checkpoints, oldest first, whole or not."""
    found = []
    for path in Path(folder).glob("step_*"):
        digits = path.name.removeprefix("step_")
        if path.is_dir() and digits.isdigit():
            found.append(Checkpoint(path, int(digits)))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def save_under_way(folder: str | Path) -> bool:
    """Whether a checkpoint below <run>/checkpoints is being written (or was when its writer died)."""
    return any(Path(folder).glob(f"step_*{UNFINISHED}"))


def interrupted(checkpoint: Checkpoint) -> bool:
    """Whether its writing was cut short (or goes on)."""
    return checkpoint.path.with_name(checkpoint.path.name + UNFINISHED).exists()


def problem_of(checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint can't be resumed from, or None if it is whole: marks and file sizes, not contents."""
    try:
        return damage_by_size(checkpoint)
    except OSError as error:
        return f"{error.filename} can't be read: {error.strerror}"


def damage_by_size(checkpoint: Checkpoint) -> str | None:
    """As problem_of, but raises OSError where the disk doesn't answer, which is no damage."""
    path = checkpoint.path
    if interrupted(checkpoint):
        return "its writing was interrupted"
    if not (path / MANIFEST).is_file():
        return f"its {MANIFEST} is missing"
    try:
        files = checkpoint.manifest()["files"]
        sizes = {name: int(entry["bytes"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is damaged"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def newest_whole(folder: str | Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole by marks and sizes, and a line for each newer one that isn't."""
    complaints: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = problem_of(checkpoint)
        if problem is None:
            return checkpoint, complaints
        complaints.append(f"checkpoint {checkpoint.path.name} is not used: {problem}")
    return None, complaints


# -- contents -----------------------------------------------------------------------------------------------------


def hash_file(path: Path) -> str:
    """XXH3-128 of a file's content: finds damage, does not withstand an attacker."""
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as stream:
        buffer = memoryview(bytearray(CHUNK))
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def describe_files(path: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and hash of files of a checkpoint, four at a time."""
    names = list(names)
    with ThreadPoolExecutor(4) as pool:
        hashes = pool.map(lambda name: hash_file(path / name), names)
        return {
            name: {"bytes": (path / name).stat().st_size, HASH: digest}
            for name, digest in zip(names, hashes, strict=True)
        }


def remove_half_written(place: Path) -> None:
    """Remove a checkpoint of this very process. A writer that did not fail may still be leaving a note beside its file."""
    end = time.monotonic() + NOTES_SECONDS
    while place.exists() and time.monotonic() < end:
        shutil.rmtree(place, ignore_errors=True)
        time.sleep(0.05)


def note_hash(file: Path) -> None:
    """Leave size and hash of a file that this process has written for the rank, which then needn't read it."""
    entry = {"bytes": file.stat().st_size, HASH: hash_file(file)}
    write_json(file.with_name(file.name + NOTE), entry)


def describe_written(path: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """As describe_files, by the notes that the writers of these files left, which are removed."""
    known = {}
    for name in (names := list(names)):
        note = path / f"{name}{NOTE}"
        if note.is_file():
            known[name] = json.loads(note.read_text(encoding="utf-8"))
            note.unlink()
    return known | describe_files(path, [name for name in names if name not in known])


def files_of(path: Path) -> list[str]:
    """Names, relative to the checkpoint's folder, of all its files but the manifest and the writers' notes."""
    # NFS may still show a note that another rank has removed
    files = (file for file in path.rglob("*") if file.is_file() and file.name != MANIFEST and file.suffix != NOTE)
    return sorted(str(file.relative_to(path)) for file in files)


def write_manifest(path: Path, known: dict[str, dict[str, Any]] | None = None, **more: Any) -> int:
    """Record size and hash of every file of a checkpoint that has just been written; returns their bytes in all.

    `known` are entries that are described already (by the ranks that wrote the files), `more` further fields.
    """
    known = known or {}
    # a file that this rank doesn't see yet (NFS) is told of by the rank that wrote it
    names = sorted({*files_of(path), *known})
    files = describe_files(path, [name for name in names if name not in known]) | known
    write_json(path / MANIFEST, {"version": 1, "files": {name: files[name] for name in names}, **more})
    return sum(files[name]["bytes"] for name in names)


def damage_of(checkpoint: Checkpoint, part: int = 0, parts: int = 1) -> str | None:
    """Read the files back and compare their hashes; returns the first that differs. `part` of `parts` shares the work.

    Raises OSError where the disk doesn't answer, which is no damage.
    """
    files = checkpoint.manifest()["files"]
    mine = _share(files, part, parts)
    try:
        found = describe_files(checkpoint.path, mine)
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    for name in mine:
        if found[name][HASH] != files[name].get(HASH):
            return f"the content of {name} has changed since it was written"
    return None


def _share(files: dict[str, dict[str, Any]], part: int, parts: int) -> list[str]:
    """Files dealt out by size, so that every part reads about as much."""
    by_size = sorted(files, key=lambda name: (-files[name]["bytes"], name))
    return by_size[part::parts]


# -- removal ------------------------------------------------------------------------------------------------------


def prune(folder: str | Path, keep: int, *spare: Path | None) -> list[Checkpoint]:
    """Remove all but the newest `keep` whole checkpoints (-1 keeps all), never the newest, never one of `spare`."""
    if keep < 0:
        return []
    whole = [checkpoint for checkpoint in list_checkpoints(folder) if problem_of(checkpoint) is None]
    removed = []
    for checkpoint in whole[: max(0, len(whole) - max(1, keep))]:
        if checkpoint.path in spare:
            continue
        remove(checkpoint.path)
        removed.append(checkpoint)
    return removed


def remove(path: Path) -> None:
    """Remove a checkpoint folder: renamed first, so that a removal cut short leaves nothing that looks like one."""
    aside = path.with_name(f"{REMOVING}{path.name}")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    fsync_dir(path.parent)
    shutil.rmtree(aside)


def clean_leftovers(folder: str | Path) -> list[str]:
    """Remove what killed starts left half written or half removed; returns a line for each, also for what can't be removed.

    Only what can't be of use: folders that were being removed, and checkpoints with NeMo's mark of an unfinished
    write. Call it only while no other process writes to the run.
    """
    folder = Path(folder)
    told = []
    for path in sorted(folder.glob(f"{REMOVING}*")):
        try:
            shutil.rmtree(path)
        except OSError as error:  # NFS keeps a file that somebody still reads
            told.append(f"{path} can't be removed: {error.strerror}; the next start tries again")
        else:
            told.append(f"finished the removal of checkpoint {path.name.removeprefix(REMOVING)}")
    for mark in sorted(folder.glob(f"step_*{UNFINISHED}")):
        half = mark.with_name(mark.name.removesuffix(UNFINISHED))
        if half.is_dir():
            remove(half)
        told.append(f"removed checkpoint {half.name}: its writing was interrupted")
        mark.unlink()  # last: until the folder is gone, the mark says what it is
    return told


def set_aside(checkpoint: Checkpoint) -> Path:
    """Move a damaged checkpoint to checkpoints/damaged, where nothing reads or removes it; returns its new path."""
    place = checkpoint.path.parent / DAMAGED
    place.mkdir(exist_ok=True)
    for target in _free_names(place / checkpoint.path.name):
        checkpoint.path.rename(target)
        fsync_dir(checkpoint.path.parent)
        return target
    raise AssertionError


def _free_names(path: Path) -> Iterator[Path]:
    if not path.exists():
        yield path
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 0
    while True:
        candidate = path.with_name(f"{path.name}.{stamp}.{number}")
        if not candidate.exists():
            yield candidate
        number += 1


# -- space --------------------------------------------------------------------------------------------------------


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of `folder` (or of its nearest parent that exists)."""
    while not folder.exists():
        folder = folder.parent
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def bytes_of_one(folder: str | Path) -> int | None:
    """Size of the newest whole checkpoint by its manifest, or None when there is none."""
    newest, _ = newest_whole(folder)
    if newest is None:
        return None
    return sum(int(entry["bytes"]) for entry in newest.manifest()["files"].values())
