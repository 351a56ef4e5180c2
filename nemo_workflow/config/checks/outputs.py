"""The folder of the runs, W&B, and the sample text of a finished run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow.config import containers
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.flag_values import profiled
from nemo_workflow.models import upload
from nemo_workflow.models.families import not_converted
from nemo_workflow.utils import libraries
from nemo_workflow.utils.console import counted


def output_folder(run: Run) -> Iterator[str]:
    """What can be told without making it; the start tells the rest (root may write to /proc, as far as /proc says)."""
    if run.settings.executor != "local":
        return
    output = Path(run.settings.output_dir).expanduser().absolute()
    folder = output / run.settings.experiment
    there = next(place for place in (folder, *folder.parents) if os.access(place, os.F_OK))
    if not there.is_dir():
        yield f"--output-dir {output}: {there} is a file; give a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"--output-dir {output}: {there} can't be written; give another folder, or make this one writable"


def wandb_flags(run: Run) -> Iterator[str]:
    """Without --wandb, NeMo's logger drops these in silence."""
    settings = run.settings
    idle = run.given("wandb_project", "wandb_name", "wandb_token")
    if idle and not settings.wandb:
        yield f"{', '.join(idle)}: does nothing without --wandb; add --wandb or leave it out"
    # a container's packages can't be told from here
    here = settings.executor == "local" or containers.runtime(settings) == containers.NONE
    if settings.wandb and here and not settings.dry_run and not libraries.importable("wandb"):
        yield "--wandb: the package wandb is not installed; pip install wandb, or leave it out"


MOST_PROFILED = 20  # a trace of more is larger than a browser shows


def profiled_steps(run: Run) -> Iterator[str]:
    """A step that is never made would leave no trace, and no word."""
    steps = run.settings.profile
    if steps is None or run.schedule is None:
        return
    first, last = profiled(steps)
    if last > run.schedule.max_steps:
        yield f"--profile {steps}: the run has {counted(run.schedule.max_steps, 'step')}; choose some of them"
    if last - first >= MOST_PROFILED:
        yield f"--profile {steps}: {last - first + 1} steps make too large a trace; choose {MOST_PROFILED} at most"


def wandb_logged_in() -> bool:
    """Whether `wandb login` has left a key."""
    try:
        keys = Path(os.environ.get("NETRC", "~/.netrc")).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError):
        keys = ""
    return "api.wandb.ai" in keys or "WANDB_BASE_URL" in os.environ  # of another server we can't tell


def sample_text(run: Run) -> Iterator[str]:
    """What the export and the text after a training need, told before the hours of training."""
    text = run.settings.sample
    if text is None:
        return
    if run.settings.executor == "slurm":
        yield (
            "--sample: only with --executor local; leave it out, and when the job has ended export a checkpoint with"
            " ckpt_conversion/convert_from_nemo2_to_hf.py and use python -m nemo_workflow.sample to continue a text"
        )
    if run.recipe and (reason := not_converted.refused(run.recipe.model_class, run.recipe.name)):
        yield f"--sample: {run.recipe.name} can't be exported to Hugging Face: {reason}; leave it out"


def hugging_face(run: Run) -> Iterator[str]:
    """What --export-hf and --push-to-hub need, told before the hours of training."""
    settings, hub = run.settings, run.settings.push_to_hub
    refused = not_converted.refused(run.recipe.model_class, run.recipe.name) if run.recipe else None
    if settings.export_hf and refused and run.recipe:
        yield f"--export-hf: {run.recipe.name} can't be exported to Hugging Face: {refused}; leave it out"
    if hub is None:
        return
    if not settings.export_hf:
        yield "--push-to-hub: uploads what --export-hf exports; add --export-hf end, or leave it out"
    # a job gets the environment's token, and not the file of this machine's `hf auth login`
    elsewhere = bool(settings.hf_token or settings.ssh or settings.dry_run)
    yield from upload.problems(hub, elsewhere or (settings.executor == "local" and upload.token_here()))
