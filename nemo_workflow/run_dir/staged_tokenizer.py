"""A run's own copy of its tokenizer.

NeMo copies the folder that a tokenizer comes from into the context of every checkpoint, a model's weights included. So
training reads a copy that holds the small files only: tokenizer, config.json, generation_config.json.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nemo_workflow.config.run_config import Plan
from nemo_workflow.models.tokenizer_files import files_of

FOLDER = "tokenizer"


def stage(plan: Plan) -> None:
    """Copy the tokenizer's files into <run>/tokenizer; a Hub id is left to the workers and the Hub's cache."""
    source = Path(plan.setting("hf_model_id")).expanduser()
    target = plan.folder / FOLDER
    if not source.is_dir():
        if target.is_dir():  # of an earlier start, with another tokenizer
            shutil.rmtree(target)
        return
    aside = target.with_name(f".{FOLDER}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for file in files_of(source):
        shutil.copyfile(file, aside / file.name)
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)


def source_of(plan: Plan) -> str:
    """Where the workers load the tokenizer from: the staged folder, or the Hub id."""
    staged = plan.folder / FOLDER
    return str(staged) if staged.is_dir() else plan.setting("hf_model_id")
