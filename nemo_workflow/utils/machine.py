"""What this machine has, GPUs or not, and whom a process belongs to. Read from files where files say it."""

from __future__ import annotations

import os
import platform
import pwd
import re
import shutil
from pathlib import Path
from typing import Any

DEVICES = Path("/dev")
CPUINFO = Path("/proc/cpuinfo")
CORE_RATE = 36e9  # operations per second and core: llama_tiny in bf16 made 2.7k tokens/s on two cores of an AMD EPYC
MUCH_LOAD = 1.5  # times what our ranks make by themselves
CORE_RATE_AMX = 100e9  # the same on two cores of a Xeon with bf16 tiles: 6.8k to 8.7k tokens/s


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


def facts() -> dict[str, Any]:
    """Host, operating system, processor, cores that this process may use, and bytes of memory."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", CPUINFO.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": found[1] if found else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def instructions() -> frozenset[str]:
    """The processor's sets of instructions, as Linux calls them ("avx2", "amx_bf16"); empty where that can't be told."""
    try:
        found = re.search(r"^flags\s*:(.+)$", CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return frozenset(found[1].split()) if found else frozenset()


def cpu_rate(precision: str) -> float:
    """Operations per second of a training on all cores that this process may use."""
    tiles = precision == "bf16-mixed" and "amx_bf16" in instructions()
    return (CORE_RATE_AMX if tiles else CORE_RATE) * int(facts()["cores"])


def shared_cpu(ranks: int) -> str:
    """In words, that other processes take the CPU from our ranks, each of which keeps a core busy; '' where they don't.

    By the load average of the last minute: the processes that ran or waited for a core.
    """
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < MUCH_LOAD * max(cores, ranks):
        return ""
    return f"other processes share the CPU (load {load:.0f} on {cores} cores)"


def slurm_job() -> dict[str, Any]:
    """{"slurm": job id, nodes and how often Slurm has started the job again}, or {} outside a job."""
    if "SLURM_JOB_ID" not in os.environ or "SLURM_PROCID" not in os.environ:  # not a task that srun started
        return {}
    names = {"job": "SLURM_JOB_ID", "nodes": "SLURM_JOB_NODELIST", "restart": "SLURM_RESTART_COUNT"}
    found = {key: os.environ.get(name, "") for key, name in names.items()}
    return {"slurm": {**found, "restart": int(found["restart"] or 0)}}


def user_name(uid: int) -> str:
    """The name that passwd has for a uid; empty where it has none. $USER may name another, and a container's user may have no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def user_described(uid: int) -> str:
    """A user in a message: the name, else the uid."""
    return user_name(uid) or f"uid {uid}"
