"""A run's folder where a model or a tokenizer is expected: what in it was meant."""

from __future__ import annotations

from pathlib import Path

from nemo_workflow.models.tokenizer_files import json_of
from nemo_workflow.utils.errors import Refusal

PLAN = "plan.json"  # in a run's folder, and in that of each of its starts


def checkpoint_in(folder: Path) -> Path | None:
    """The newest NeMo 2 checkpoint of a run's folder, or of its checkpoints/, that was written to its end."""
    found = [
        path
        for place in (folder / "checkpoints", folder)
        for path in sorted(place.glob("step_*"), reverse=True)
        if (path / "context").is_dir() and (path / "weights").is_dir()
        if not path.with_name(f"{path.name}-unfinished").exists()
    ]
    return found[0] if found else None


def meant_checkpoint(folder: Path) -> str:
    """'; did you mean RUN/checkpoints/step_…?', or nothing."""
    found = checkpoint_in(folder)
    return f"; did you mean {found}?" if found else ""


def meant_tokenizer(folder: Path) -> str:
    """'; it is a run's folder …' with the tokenizer that the run was trained with, or that it holds data; else nothing."""
    try:
        settings = json_of(folder / PLAN).get("settings")
    except Refusal:
        return ""
    if any(folder.glob("*.idx")) or any(folder.glob("preprocessed/**/*.idx")):
        return "; it holds data, which goes with --dataset-dir"
    named = settings.get("hf_model_id") if isinstance(settings, dict) else None
    return f"; it is a run's folder, and the run was trained with {named}" if named else ""
