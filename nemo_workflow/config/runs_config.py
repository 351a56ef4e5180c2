"""A run's own config.yaml as --config: the same run goes on, or it is the template of another."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any

from nemo_workflow.config.flags import BY_ATTRIBUTE, COMMAND_ATTRIBUTES, EXECUTION, LOGGING, SLURM
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute
from nemo_workflow.utils.folder_kinds import is_run

ELSEWHERE = (EXECUTION, SLURM, LOGGING)  # groups of flags from which the plan works out no other's value
PLACE = {"experiment", "output_dir"}


def check_place(flags: dict[str, Any], from_file: dict[str, Any]) -> None:
    """Note of a run's folder that was copied that its file names another run; one that was moved is refused.

    `flags` are those of the command line.
    """
    path, (folder, lies) = flags["config"], _places(flags, from_file)
    if folder == lies or PLACE & flags.keys() or not is_run(lies):
        return
    here = f"-E {shlex.quote(lies.name)} --output-dir {shlex.quote(str(lies.parent))}"
    if not is_run(folder):
        raise Refusal(
            f"--config {path}: the run that it names, {folder}, is not there: give {here} to go on with the one that it"
            " lies in, or -E NAME to begin another"
        )
    print(
        f"note: --config {path}: the run that it names is {folder}; for the folder that it lies in: {here}",
        file=sys.stderr,
    )


def still_worked_out(flags: dict[str, Any], from_file: dict[str, Any], found: frozenset[str]) -> frozenset[str]:
    """Of the flags `found`, whose values the file has from a run's plan, those that hold. A flag that makes it another run takes them
    out of `from_file`: they fitted the old one."""
    folder, lies = _places(flags, from_file)
    if folder == lies and flags.get("max_steps", math.inf) >= from_file.get("max_steps", 0):
        return found  # the same run goes on
    options = (BY_ATTRIBUTE[name] for name in flags.keys() - COMMAND_ATTRIBUTES - {"output_dir"})
    changed = [
        o for o in options if o.group not in ELSEWHERE and flags[o.attribute] != from_file.get(o.attribute, o.default)
    ]
    if not changed or not found:
        return found
    for name in found:
        del from_file[name]
    names = ", ".join(BY_ATTRIBUTE[name].name for name in sorted(found))
    given = " and ".join(sorted(f"--{option.name}" for option in changed))
    print(f"note: --config {flags['config']}: worked out anew for {given}: {names}", file=sys.stderr)
    return frozenset()


def _places(flags: dict[str, Any], from_file: dict[str, Any]) -> tuple[Path, Path]:
    """The folder of the run that is asked for, and the one that the file lies in."""
    place = {**from_file, **flags}
    folder = absolute(place.get("output_dir", "")) / place.get("experiment", "")
    return folder, absolute(flags["config"]).parent
