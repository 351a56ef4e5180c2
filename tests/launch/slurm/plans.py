"""Plans for the golden job scripts: no file of theirs exists."""

from __future__ import annotations

from nemo_workflow.config import command_line
from nemo_workflow.config.parallelism import Layout
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.data.blend import Source
from nemo_workflow.data.indexed_dataset import Pair

PYTHON = "/shared/venv/bin/python"
ATTEMPT = "20260102-030405"

BASE = ["--executor", "slurm", "-A", "a1", "-P", "batch", "-M", "llama3_8b", "--hf-model-id", "org/model",
        "--dataset-dir", "/shared/data", "--output-dir", "/shared/runs", "-E", "gold"]  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "container": ("-N", "1", "-G", "8", "--container-mounts", "/shared/data:/shared/data:ro"),
    "apptainer": ("-N", "2", "-G", "8", "--container-runtime", "apptainer", "-I", "/shared/images/nemo.sif",
                  "--container-mounts", "/shared/data:/shared/data:ro", "--container-env", "PYTHONPATH"),
    "apptainer_pulls": ("--container-runtime", "apptainer", "-I", "nvcr.io/nvidia/nemo:25.11", "-G", "1",
                        "--accelerator", "cpu", "--setup-file", "/shared/setup.sh"),
    "no_container": ("--no-container", "-G", "4", "--mem", "16G", "--setup-file", "/shared/setup.sh"),
    "two_nodes": ("-N", "2", "-G", "8", "--exclusive", "--time", "4:00:00", "--no-container"),
    "eight_gpus": ("-G", "8", "--no-container", "--slurm-arg", "cpus-per-task=1", "--slurm-arg", "comment=a b"),
    "requeue": ("-G", "2", "--no-container", "--requeue", "3", "--time", "1-0", "--stop-before", "600",
                "--dependency", "afterany:1", "--mail-type", "END", "--mail-user", "me@example.org"),
    "cpu": ("--accelerator", "cpu", "-G", "2", "--no-container"),
}  # fmt: skip


def plan(variant: str) -> Plan:
    """The plan of a variant, as make_plan would make it."""
    settings = command_line.parse([*BASE, *VARIANTS[variant]])
    schedule = dict.fromkeys(Schedule.__dataclass_fields__, 1)
    return Plan(
        settings=settings,
        given=tuple(sorted(settings.given)),
        accelerator="cpu" if settings.accelerator == "cpu" else "gpu",
        model_name="llama3_8b",
        layout=Layout(settings.num_nodes, settings.num_gpus, 1, 1, 1, 1, 1, False),
        sources=(Source(Pair("/shared/data/text", "int32", 1, 1, 1), 1.0),),
        seq_length=8192,
        schedule=Schedule(**schedule),
        run_dir="/shared/runs/gold",
    )
