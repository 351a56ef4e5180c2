"""The checkpoints of a run: their names, which are whole, which one to resume from. Light: no torch, no NeMo.

A checkpoint is a folder <run>/checkpoints/step_00000100 with weights/ and context/. While NeMo writes one, a file
step_00000100-unfinished lies beside it; ours adds manifest.json (file sizes) as the last thing.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.files import write_json

FILENAME = "step_{step:08d}"  # Lightning fills in the step
MANIFEST = "manifest.json"
UNFINISHED = "-unfinished"  # NeMo's marker beside the folder


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and the step it was taken after."""

    path: Path
    step: int

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def list_checkpoints(folder: str | Path) -> list[Checkpoint]:
    """Every step_* folder below <run>/checkpoints, oldest first, whole or not."""
    found = []
    for path in Path(folder).glob("step_*"):
        digits = path.name.removeprefix("step_")
        if path.is_dir() and digits.isdigit():
            found.append(Checkpoint(path, int(digits)))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def problem_of(checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint can't be resumed from, or None if it is whole."""
    path = checkpoint.path
    if path.with_name(path.name + UNFINISHED).exists():
        return "its writing was interrupted"
    manifest = path / MANIFEST
    if not manifest.is_file():
        return "its manifest.json is missing: the writing was interrupted"
    try:
        sizes: dict[str, int] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError):
        return "its manifest.json is damaged"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def newest_whole(folder: str | Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that isn't."""
    complaints: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = problem_of(checkpoint)
        if problem is None:
            return checkpoint, complaints
        complaints.append(f"checkpoint {checkpoint.path.name} is not used: {problem}")
    return None, complaints


def write_manifest(path: Path) -> int:
    """Record the size of every file of a checkpoint that has just been written; returns their sum in bytes."""
    sizes = {
        str(file.relative_to(path)): file.stat().st_size
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(path / MANIFEST, {"files": sizes})
    return sum(sizes.values())


def prune(folder: str | Path, keep: int, spare: Path | None = None) -> list[Checkpoint]:
    """Remove all but the newest `keep` whole checkpoints (-1 keeps all), never `spare`; returns those removed."""
    if keep < 0:
        return []
    whole = [checkpoint for checkpoint in list_checkpoints(folder) if problem_of(checkpoint) is None]
    removed = []
    for checkpoint in whole[: max(0, len(whole) - keep)]:
        if spare is not None and checkpoint.path == spare:
            continue
        # the manifest goes first, so that a removal cut short never looks like a whole checkpoint
        (checkpoint.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint.path)
        removed.append(checkpoint)
    return removed
