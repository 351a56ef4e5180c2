"""What a preprocessing job is to launch/slurm, which sees a Plan in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.config.settings import Settings

EXPERIMENT = "preprocess"  # unless --experiment names another


@dataclass(frozen=True)
class Nodes:
    """One rank a node, which starts worker processes itself."""

    nodes: int
    ranks_per_node: int = 1


@dataclass(frozen=True)
class CorpusPlan:
    """A job on CPUs; `job` is what preprocess/node.py reads of it."""

    settings: Settings
    run_dir: str
    layout: Nodes
    job: dict[str, Any]
    workers: int | None  # processes per node; None: all cores of whole nodes
    accelerator: str = "cpu"
    sources: tuple[Any, ...] = ()  # its folders are among the mounts of the settings

    @property
    def folder(self) -> Path:
        return Path(self.run_dir)

    def to_json(self) -> str:
        return json.dumps(self.job, indent=2)
