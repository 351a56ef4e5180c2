"""For which GPU a run is planned: the one that --gpu names, this machine's own, or an H100."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_workflow.utils import gpus, visible_gpus
from nemo_workflow.utils.gpus import GIB, Gpu


@dataclass(frozen=True)
class PlannedCard:
    """A GPU of the run. `key` is None where the driver's name for it is not in the table: its time can't be planned."""

    key: str | None  # as --gpu takes it
    name: str  # for people
    memory: int  # bytes of one
    source: str  # where the number of bytes is from

    @property
    def gpu(self) -> Gpu | None:
        return gpus.BY_KEY[self.key] if self.key else None

    def __str__(self) -> str:
        return f"{self.memory / GIB:.0f} GiB of {self.name} ({self.source})"


def card_of(settings: Any, accelerator: str, count: int) -> PlannedCard:
    """The GPU for which a run of `count` GPUs per node is planned. `settings` has the flags as attributes."""
    key = settings.gpu
    name = "NVIDIA " + key.upper() if key else ""
    # a cluster's GPUs are not this machine's
    here = visible_gpus.smallest(count) if accelerator == "gpu" and settings.executor == "local" and not key else None
    if here:
        found = gpus.by_driver_name(here.name)
        key, name = found.key if found else None, here.name
    elif not key:
        key, name = gpus.DEFAULT.key, "NVIDIA " + gpus.DEFAULT.key.upper()
    if settings.gpu_memory is not None:
        return PlannedCard(key, name, int(settings.gpu_memory * GIB), "--gpu-memory")
    if here:
        return PlannedCard(key, name, here.memory, "this machine's GPU")
    return PlannedCard(
        key, name, int(gpus.BY_KEY[key].memory * GIB), "--gpu" if settings.gpu else "assumed; --gpu names another"
    )
