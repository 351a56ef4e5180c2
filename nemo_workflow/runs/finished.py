"""The last words of a run that has reached its end: how it went, where things are, and the next command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from nemo_workflow.config.plan import Plan
from nemo_workflow.models import catalog, families
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.run_dir.export_process import EXPORTED
from nemo_workflow.runs.report.page import FILE as REPORT
from nemo_workflow.utils.files import from_here_if_below, typed_python

ROSE = 1.2  # times the first loss, from which a training has learned nothing of its text


def last_words(plan: Plan) -> Iterator[str]:
    """Lines for the screen; paths are told from the current folder where they lie below it."""
    summary = json.loads((plan.folder / metrics.SUMMARY).read_text(encoding="utf-8"))
    said = [f"loss {summary['first_loss']:.4f} -> {summary['final_loss']:.4f}"]
    if summary.get("val_loss") is not None:
        earlier = "" if summary.get("val_step") in (None, summary.get("steps")) else f" at step {summary['val_step']}"
        said.append(f"validation loss {summary['val_loss']:.4f}{earlier}")
    yield f"  {', '.join(said)}"
    if summary["final_loss"] > ROSE * summary["first_loss"]:
        yield "  WARNING     the loss is above that of its first step: the training has diverged; a lower --lr, or more --warmup-steps"
    newest, _ = newest_whole(plan.folder / "checkpoints")
    if newest:
        yield f"  checkpoint  {from_here_if_below(newest.path)}"
    if (plan.folder / REPORT).is_file():
        yield f"  report      {from_here_if_below(plan.folder / REPORT)}"
    if newest and plan.settings.sample is None and plan.settings.export_hf is None and _exportable(plan):
        command = [typed_python(), "-m", "nemo_workflow.export", from_here_if_below(plan.folder)]
        yield f"  export      {shlex.join(command)}"


def after_export(plan: Plan) -> Iterator[str]:
    """What to type next, once the model of a run is exported."""
    model = from_here_if_below(plan.folder / EXPORTED)
    words = [typed_python(), "-m", "nemo_workflow.sample", "--hf-model", model, "another text"]
    if plan.settings.sample:
        yield f"  more text   {shlex.join(words)}"
    if plan.schedule.limit_val_batches:
        words = [
            typed_python(),
            "-m",
            "nemo_workflow.evaluate",
            "--hf-model",
            model,
            "--run",
            from_here_if_below(plan.folder),
        ]
        yield f"  proof       {shlex.join(words)}"
    newest, _ = newest_whole(plan.folder / "checkpoints")
    made = newest.step if newest else plan.schedule.max_steps
    yield f"  train on    the same command with a larger --max-steps than {made}"


def _exportable(plan: Plan) -> bool:
    return catalog.find(plan.model_name).model_class in {family.model_class for family in families.FAMILIES}
