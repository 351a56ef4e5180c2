"""The export of a run's checkpoint to Hugging Face in a process of its own, which `python -m nemo_workflow.export` is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nemo_workflow.conversion.report import NAME as REPORT
from nemo_workflow.run_dir import report_process
from nemo_workflow.run_dir.checkpoints import Checkpoint

EXPORTED = "hf_model"  # in the run's folder
LOG = "export.log"  # in an attempt
# what tells a process that it is a rank: an export started by one is none
OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def command(run: Path, step: int, *more: str) -> list[str]:
    """The command line; a secret is in none of it."""
    return [sys.executable, "-m", "nemo_workflow.export", str(run), "--step", str(step), *more]


def environment() -> dict[str, str]:
    """Ours without what makes a rank, and without GPUs: the training has them."""
    kept = {
        name: value
        for name, value in report_process.environment().items()
        if name not in OF_A_RANK and not name.startswith(("SLURM_", "TORCHELASTIC_", "PMI"))
    }
    return kept | {"CUDA_VISIBLE_DEVICES": ""}


def start(run: Path, step: int, log: Path, *more: str) -> subprocess.Popen[bytes]:
    """Begin an export beside a training; what it says goes to `log`. Raises OSError."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            command(run, step, *more), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment()
        )


def event(run: Path, step: int, seconds: float, problem: str | None, hub: str | None = None) -> dict[str, Any]:
    """What metrics.jsonl keeps of an export; `problem` is None where the model was proved (and uploaded as `hub`)."""
    return {"step": step, "path": str(run / EXPORTED), "seconds": round(seconds, 1), "problem": problem, "hub": hub}


def is_exported(folder: Path, source: Checkpoint) -> bool:
    """Whether a folder is the proved model of a checkpoint that has not been written again since."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        newer = (folder / REPORT).stat().st_mtime > (source.path / "manifest.json").stat().st_mtime
    except (OSError, ValueError):
        return False
    return bool(newer and report.get("verified") and Path(report.get("source", "")) == source.path)
