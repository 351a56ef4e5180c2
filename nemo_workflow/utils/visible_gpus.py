"""The GPUs of this machine that a process here would use, asked of the driver: NVML, or nvidia-smi where it can't be loaded."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nemo_workflow.utils import gpus

MIB = 2**20
SMI_SECONDS = 60  # where no persistence daemon runs, each of eight cards is woken first, seconds a card


@dataclass(frozen=True)
class Card:
    """One GPU, or one MIG instance of one."""

    name: str
    memory: int  # bytes
    uuid: str


def smallest(count: int) -> Card | None:
    """Of the first `count` GPUs that CUDA shows to a process here, the one with the least memory; None where none can be told."""
    return min(visible()[:count], key=lambda card: card.memory, default=None)


def visible() -> tuple[Card, ...]:
    """The GPUs in CUDA's order, as CUDA_VISIBLE_DEVICES picks them. Takes the driver a moment, once."""
    return _visible(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"), os.environ.get("PATH"))


@functools.lru_cache(maxsize=8)
def _visible(chosen: str | None, order: str | None, _path: str | None) -> tuple[Card, ...]:
    if chosen is not None and not chosen.strip():
        return ()
    found = _by_nvml(chosen) or _by_smi(chosen)
    cards, instances = found
    if order != "PCI_BUS_ID":  # CUDA's default puts the fastest first
        cards = sorted(cards, key=lambda card: -_peak(card.name))
    if chosen is None:
        return tuple(cards)
    return tuple(_picked(chosen, cards, instances))


def _picked(chosen: str, cards: list[Card], instances: list[Card]) -> Iterator[Card]:
    """As CUDA reads the variable: numbers or beginnings of UUIDs; the first that is neither ends the list."""
    for word in (part.strip() for part in chosen.split(",")):
        if re.fullmatch(r"\d+", word) and int(word) < len(cards):
            yield cards[int(word)]
        elif word.startswith("GPU-") or word.startswith("MIG-"):
            named = [card for card in (*cards, *instances) if card.uuid.startswith(word)]
            if not named:
                return
            yield named[0]
        else:
            return


def _peak(name: str) -> float:
    found = gpus.by_driver_name(name)
    return found.bf16 if found else 0.0


def _by_nvml(chosen: str | None) -> tuple[list[Card], list[Card]] | None:
    """(whole GPUs, MIG instances), or None where the library or the driver is not here."""
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # where a package of that name stands before nvidia-ml-py's module
            import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        cards = [_card(pynvml, handle) for handle in handles]
        instances = []
        for handle in handles if "MIG-" in (chosen or "") else []:
            with contextlib.suppress(pynvml.NVMLError):  # a GPU that can't be divided
                for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                    with contextlib.suppress(pynvml.NVMLError):
                        instances.append(_card(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))
        return cards, instances
    except pynvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _card(nvml: Any, handle: Any) -> Card:
    name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
    texts = [text.decode() if isinstance(text, bytes) else text for text in (name, uuid)]
    return Card(texts[0], int(nvml.nvmlDeviceGetMemoryInfo(handle).total), texts[1])


def _by_smi(chosen: str | None) -> tuple[list[Card], list[Card]]:
    """The same from nvidia-smi; a MIG instance's memory is what its profile is called after (1g.10gb)."""
    cards, instances, parent = [], [], ""
    for row in csv.reader(_smi("--query-gpu=name,memory.total,uuid", "--format=csv,noheader,nounits").splitlines()):
        with contextlib.suppress(ValueError):
            name, memory, uuid = (cell.strip() for cell in row)
            cards.append(Card(name, int(memory) * MIB, uuid))
    if "MIG-" in (chosen or ""):
        for line in _smi("-L").splitlines():
            if whole := re.match(r"GPU \d+: (.+?) \(UUID", line):
                parent = whole[1]
            elif part := re.search(r"MIG \S*?\.(\d+)gb.*\(UUID: (MIG-[^)]+)\)", line):
                instances.append(Card(f"{parent} MIG", int(part[1]) * 2**30, part[2]))
    return cards, instances


def _smi(*words: str) -> str:
    """What nvidia-smi answers; nothing where it can't be asked."""
    try:
        return subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=SMI_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
