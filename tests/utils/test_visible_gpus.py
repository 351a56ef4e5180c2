"""Which GPUs a process here would use. No GPU is here: NVML's module and nvidia-smi are stand-ins that answer as real ones do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.card import card_of
from nemo_workflow.utils import visible_gpus
from nemo_workflow.utils.visible_gpus import Card

MIB = 2**20
GIB = 2**30
VISIBLE = visible_gpus.visible  # no_outside replaces it: the tests' machine may have GPUs

# index, name, MiB, UUID: as the bus has them
CARDS = (
    ("NVIDIA GeForce RTX 3090", 24_576, "GPU-aaaa1111-0000"),
    ("NVIDIA H100 80GB HBM3", 81_559, "GPU-bbbb2222-0000"),
    ("NVIDIA GeForce RTX 4090", 24_564, "GPU-cccc3333-0000"),
)
INSTANCE = ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9_728, "MIG-dddd4444-0000")


class NVMLError(Exception):
    pass


class Nvml(ModuleType):
    """What of pynvml is used; the second card is divided."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(CARDS)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> tuple[str, int, str]:
        return CARDS[number]

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(handle[0])

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return str(handle[2])

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return type("Memory", (), {"total": handle[1] * MIB})

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        if handle != CARDS[1]:
            raise NVMLError("not supported")
        return 2

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, number: int) -> Any:
        if number:
            raise NVMLError("not found")
        return INSTANCE


@pytest.fixture(autouse=True)
def cards(no_outside: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nvml:
    visible_gpus._visible.cache_clear()
    monkeypatch.setattr(visible_gpus, "visible", VISIBLE)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml


def names(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> list[str]:
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    return [card.name.split()[-1] for card in visible_gpus.visible()]


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, ["HBM3", "4090", "3090"]),  # the fastest first, as CUDA has them
        ("0", ["HBM3"]),
        ("1,2", ["4090", "3090"]),
        ("2, 0", ["3090", "HBM3"]),
        ("GPU-cccc", ["4090"]),
        ("GPU-aaaa1111-0000,1", ["3090", "4090"]),
        ("MIG-dddd4444-0000", ["1g.10gb"]),
        ("", []),
        ("-1", []),
        ("1,9,0", ["4090"]),  # CUDA stops at the first that isn't there
        ("GPU-none,0", []),
    ],
)
def test_cuda_visible_devices_by_number_uuid_and_instance(
    monkeypatch: pytest.MonkeyPatch, cards: Nvml, chosen: str | None, seen: list[str]
) -> None:
    assert names(monkeypatch, chosen) == seen
    assert cards.open == 0  # the library is closed again


def test_by_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert names(monkeypatch, "0,1") == ["3090", "HBM3"]


def test_the_plan_is_for_the_smallest_of_the_gpus_that_the_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings = command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y"])
    one, three = card_of(settings, "gpu", 1), card_of(settings, "gpu", 3)
    assert (one.key, one.memory, one.source) == ("h100", 81_559 * MIB, "this machine's GPU")
    assert (three.key, three.memory) == ("4090", 24_564 * MIB)
    given = command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y", "--gpu-memory", "20"])
    assert (card_of(given, "gpu", 1).memory, card_of(given, "gpu", 1).key) == (20 * GIB, "h100")
    named = command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y", "--gpu", "a100"])
    assert (card_of(named, "gpu", 1).memory, card_of(named, "gpu", 1).key) == (80 * GIB, "a100")
    cluster = command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y", "--executor", "slurm"])
    assert "assumed" in card_of(cluster, "gpu", 1).source  # its GPUs are not this machine's


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No NVML, and an nvidia-smi on the path."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    lines = "\n".join(f"{name}, {memory}, {uuid}" for name, memory, uuid in CARDS)
    listing = "\n".join(
        [
            *(f"GPU {number}: {name} (UUID: {uuid})" for number, (name, _, uuid) in enumerate(CARDS[:2])),
            "  MIG 1g.10gb     Device  0: (UUID: MIG-dddd4444-0000)",
        ]
    )
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then echo "{listing}"; else echo "{lines}"; fi\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


@pytest.mark.usefixtures("smi")
def test_nvidia_smi_answers_where_nvml_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(monkeypatch, None) == ["HBM3", "4090", "3090"]
    assert names(monkeypatch, "GPU-aaaa") == ["3090"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-dddd4444-0000")
    assert visible_gpus.visible() == (Card("NVIDIA H100 80GB HBM3 MIG", 10 * GIB, "MIG-dddd4444-0000"),)


def test_a_machine_without_either_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert names(monkeypatch, None) == []
