"""A run's own copy of its tokenizer.

NeMo copies the folder that a tokenizer comes from into the context of every checkpoint, a model's weights included. So
training reads a copy that holds the small files only: tokenizer, config.json, generation_config.json. Of a Hub id too: the
Hub's cache may not be there on a node, may change between two starts, and may hold files in words of a newer transformers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nemo_workflow.config.plan import Plan
from nemo_workflow.models.pretrained import hf_folder
from nemo_workflow.models.tokenizer_files import KEPT, copy_for_nemo, readable

FOLDER = "tokenizer"


def stage(plan: Plan) -> None:
    """Copy the tokenizer's files into <run>/tokenizer; a Hub id that isn't in the cache is left to the workers."""
    source = hf_folder(plan.settings.hf_model_id)
    target = plan.folder / FOLDER
    if source is None:
        if target.is_dir():  # of an earlier start, with another tokenizer
            shutil.rmtree(target)
        return
    aside = target.with_name(f".{FOLDER}.new")
    shutil.rmtree(aside, ignore_errors=True)
    copy_for_nemo(source, aside)
    if model := plan.settings.nemo_model:
        add_kept(Path(model).expanduser() / "context", aside)
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)


def source_of(plan: Plan) -> str:
    """Where the workers load the tokenizer from: the staged folder, or the Hub id."""
    staged = plan.folder / FOLDER
    return str(staged) if staged.is_dir() else plan.settings.hf_model_id


def add_kept(context: Path, target: Path) -> None:
    """Add what a model came with and its tokenizer's folder lacks, so that a later export gives it back."""
    for name in KEPT:
        kept = [path for path in sorted(context.glob(f"*/{name}")) if readable(path)]
        if kept and not (target / name).exists():
            shutil.copyfile(kept[0], target / name)
