"""What this machine has: GPUs or not. Read from files, no driver is loaded."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

DEVICES = Path("/dev")


def has_gpu() -> bool:
    """Whether an NVIDIA GPU or its tools are here."""
    return bool(_device_files()) or shutil.which("nvidia-smi") is not None


def gpu_count() -> int | None:
    """GPUs that a process here may use, or None where that can't be told."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() and part.strip() != "-1"])
    return len(_device_files()) or None


def _device_files() -> list[str]:
    return [path.name for path in DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
