"""--decay-from: what the checkpoint of another run says to the run that branches off from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xxhash

from nemo_workflow.config.schedule import Branch, Schedule, rate_at
from nemo_workflow.config.settings import Settings
from nemo_workflow.models import convertible
from nemo_workflow.run_dir.checkpoints import MANIFEST, Checkpoint, newest_whole, problem_of
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute
from nemo_workflow.utils.folder_kinds import BRANCH

FLAG = "--decay-from"


def branch_of(settings: Settings) -> Branch | None:
    """The branch that --decay-from asks for; raises Refusal. Once it has checkpoints of its own, they know the rest."""
    if settings.decay_from is None:
        return None
    named = named_checkpoint(settings.decay_from)
    own, _ = newest_whole(Path(settings.output_dir).expanduser() / settings.experiment / "checkpoints")
    if own is None:
        return _begun_at(named)
    known = own.manifest().get("identity", {}).get("branch")
    if known is None:
        raise Refusal(
            f"{FLAG} {named.path}: --experiment {settings.experiment} has checkpoints of its own, and they are no branch's;"
            " give the branch another --experiment"
        )
    branch = Branch(**known)
    if (named.path / MANIFEST).is_file() and _digest(named) != branch.digest:
        raise Refusal(
            f"{FLAG} {named.path}: --experiment {settings.experiment} has branched off from another checkpoint"
            f" (of step {branch.step}); give that one, or another --experiment"
        )
    return branch


def named_checkpoint(place: str) -> Checkpoint:
    """The checkpoint of a folder <run>/checkpoints/step_*, whether it is (still) there or not; raises Refusal."""
    path = absolute(place)
    digits = path.name.removeprefix("step_")
    if not path.name.startswith("step_") or not digits.isdigit():
        raise Refusal(
            f"{FLAG} {place}: not a checkpoint's folder; give one such as RUN/checkpoints/step_00001000{convertible.meant(place, BRANCH, FLAG)}"
        )
    return Checkpoint(path, int(digits))


def parent_of(settings: Settings) -> Checkpoint | None:
    """The checkpoint that a run without checkpoints of its own begins with."""
    return named_checkpoint(settings.decay_from) if settings.decay_from else None


def _begun_at(checkpoint: Checkpoint) -> Branch:
    if problem := problem_of(checkpoint):
        raise Refusal(f"{FLAG} {checkpoint.path}: {problem}; give a checkpoint that a run of this command has written")
    identity = checkpoint.manifest().get("identity") or {}
    if "schedule" not in identity:
        raise Refusal(f"{FLAG} {checkpoint.path}: its {MANIFEST} doesn't say how its run was trained; give a newer one")
    left = _schedule_of(identity)
    if checkpoint.step < left.warmup_steps:
        raise Refusal(
            f"{FLAG} {checkpoint.path}: its run was still in its warm-up of {counted(left.warmup_steps, 'step')}; give a later checkpoint"
        )
    rate = rate_at(left, checkpoint.step)
    return Branch(checkpoint.step, rate, left.lr, left.warmup_steps, left.kind, _digest(checkpoint))


def _schedule_of(identity: dict[str, Any]) -> Schedule:
    """Of the run that wrote a checkpoint, as far as learning rates need it."""
    said = identity["schedule"]
    return Schedule(
        max_steps=identity["max-steps"],
        warmup_steps=said["warmup_steps"],
        constant_steps=said["constant_steps"],
        lr=said["lr"],
        min_lr=said["min_lr"],
        val_check_interval=1,
        save_every=1,
        limit_val_batches=0,
        kind=said.get("kind"),
        decay_steps=said.get("decay_steps") or 0,
        decay_style=said.get("decay_style") or "",
    )


def _digest(checkpoint: Checkpoint) -> str:
    return xxhash.xxh3_128_hexdigest((checkpoint.path / MANIFEST).read_bytes())
