"""Numbers out of range, and names and paths that can't be taken."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.flags import TABLE, Auto
from nemo_workflow.utils.files import absolute


def smallest_values(run: Run) -> Iterator[str]:
    """The least value that a flag's row in the table allows; torch's Adam refuses a beta of 1 or more."""
    for option in TABLE:
        value = run.settings.of(option)
        if value is None or isinstance(value, Auto):
            continue
        if option.least is not None and not option.least <= value < float("inf"):
            yield f"--{option.name} {value}: must be {option.least} or more"
        if option.above is not None and not option.above < value < float("inf"):
            yield f"--{option.name} {value}: must be above {option.above}"
    settings = run.settings
    if settings.keep_checkpoints == 0:
        yield "--keep-checkpoints 0: would delete the run's only checkpoint; keep 1 or more, or -1 for all"
    if settings.adam_beta1 is not None and settings.adam_beta1 >= 1:
        yield f"--adam-beta1 {settings.adam_beta1}: must be below 1"
    if settings.adam_beta2 is not None and settings.adam_beta2 >= 1:
        yield f"--adam-beta2 {settings.adam_beta2}: must be below 1"
    if settings.optim_cpu_offloading_frac > 1:
        yield f"--optim-cpu-offloading-frac {settings.optim_cpu_offloading_frac}: must be between 0 and 1"


NAME = r"\w[\w.+=-]*"  # of a run


def experiment_name(run: Run) -> Iterator[str]:
    """One name for a folder, an attempt and a Slurm job."""
    name = run.settings.experiment
    if not re.fullmatch(NAME, name) or len(name.encode()) > 200:
        meant = re.sub(r"[^\w.+=-]+", "_", name.strip().rstrip("/").rpartition("/")[2]).lstrip("_.+=-")
        said = f"; did you mean -E {meant}?" if re.fullmatch(NAME, meant) and len(meant.encode()) <= 200 else ""
        yield f"--experiment {name!r}: not a valid folder name; use letters, digits and _, and after the first character also . + = -{said}"


def paths_are_text(run: Run) -> Iterator[str]:
    """Paths travel to the ranks as JSON and into checkpoints as YAML: any text may be in them, blanks and newlines too."""
    settings = run.settings
    paths = [
        ("--hf-model-id", settings.hf_model_id),
        ("--output-dir", str(absolute(settings.output_dir))),
    ]
    one = (("--nemo-model", settings.nemo_model), ("--blend", settings.blend), ("--decay-from", settings.decay_from))
    paths += [(flag, path) for flag, path in one if path]
    paths += [("--dataset-dir", folder) for folder in settings.dataset_dir]
    paths += [("--validation-dir", word) for word in settings.validation_dir]
    paths += [("data", f"{source.pair.prefix}.bin") for source in run.every_source]
    for flag, path in paths:
        if any("\ud800" <= sign <= "\udfff" for sign in path):
            yield f"{flag} {path.encode('utf-8', 'backslashreplace').decode()}: not valid UTF-8; rename it"


def planning_flags(run: Run) -> Iterator[str]:
    """Flags that only say something of a plan, where there is none."""
    idle = run.given("max_memory", "deadline")
    if idle and run.settings.suggest is None:
        yield f"{', '.join(idle)}: does nothing without --suggest; add it or leave it out"
    if run.accelerator == "cpu" and (idle := run.given("gpu", "gpu_memory", "node_bandwidth")):
        yield f"{', '.join(idle)}: this run trains on CPU ranks; leave it out, or plan for GPUs with --accelerator gpu --dry-run"
