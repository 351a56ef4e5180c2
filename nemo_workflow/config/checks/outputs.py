"""The folder of the runs, W&B, and the sample text of a finished run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow.config import containers
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.flag_values import profiled
from nemo_workflow.models.families import not_converted
from nemo_workflow.utils import libraries
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.files import absolute, script


def output_folder(run: Run) -> Iterator[str]:
    """What can be told without making it; the start tells the rest (root may write to /proc, as far as /proc says)."""
    if run.settings.executor != "local":
        return
    output = absolute(run.settings.output_dir)
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
            f" {script('ckpt_conversion/convert_from_nemo2_to_hf.py')} and use python -m nemo_workflow.sample to continue a text"
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
    here = settings.executor == "local"
    given = bool(settings.hf_token or settings.ssh or settings.dry_run)
    yield from upload(hub, given or (here and token_here()), login=here)


HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def upload(hub_id: str, token: bool, login: bool = True) -> Iterator[str]:
    """What an upload needs before there is anything to upload; the Hub's own rules of names.

    `token`: there is one, or it can't be told; `login`: that of `hf auth login` would do.
    """
    marks = any(part.startswith((".", "-")) or part.endswith((".", "-", ".git")) for part in hub_id.split("/"))
    if not HUB_ID.fullmatch(hub_id) or marks or "--" in hub_id or ".." in hub_id:
        yield f"--push-to-hub {hub_id}: not a valid name of a Hub model; give ORG/NAME of letters, digits and ._-"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield "--push-to-hub: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave the flag out"
    if not token:
        how = "`hf auth login`, or export HF_TOKEN" if login else "export HF_TOKEN"
        yield f"--push-to-hub: no token; {how} with one that may write (made on the Hub's settings page)"


def token_here() -> bool:
    """Whether HF_TOKEN is set, or `hf auth login` has left a token on this machine."""
    from huggingface_hub import get_token  # a third of a second

    return bool(get_token())
