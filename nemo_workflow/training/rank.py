"""`python -m nemo_workflow.training.rank ATTEMPT`: what torchrun starts, once a rank. Trains as ATTEMPT/plan.json says."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psutil

from nemo_workflow.models.run_folders import PLAN
from nemo_workflow.utils.processes import name_process


def main(attempt: str) -> None:
    """Be the rank that torchrun's variables name."""
    name_process(f"rank {os.environ['RANK']}")
    from nemo_workflow.training.worker import train

    train((Path(attempt) / PLAN).read_text(encoding="utf-8"), attempt)


def number(process: psutil.Process) -> int:
    """Which rank a process is, by its name; -1 for one that is none, or has not got that far."""
    try:
        found = re.fullmatch(r"rank (\d+)", process.name())
    except psutil.Error:
        return -1
    return int(found[1]) if found else -1


if __name__ == "__main__":
    main(sys.argv[1])
