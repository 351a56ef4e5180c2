"""Which GPU a plan is for, against what CUDA itself shows under the same variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.utils import visible_gpus

pytestmark = pytest.mark.gpu
REPOSITORY = Path(__file__).resolve().parents[3]
CUDA = """
import json, torch
cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
print(json.dumps([[card.name, str(card.uuid), card.total_memory] for card in cards]))
"""
OURS = """
import json
from nemo_workflow.utils import visible_gpus
print(json.dumps([[card.name, card.uuid.removeprefix("GPU-"), card.memory] for card in visible_gpus.visible()]))
"""


def shown(program: str, chosen: str | None, order: str | None) -> list[tuple[str, str, int]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_VISIBLE")}
    environment |= {"CUDA_VISIBLE_DEVICES": chosen} if chosen is not None else {}
    environment |= {"CUDA_DEVICE_ORDER": order} if order else {}
    words = [sys.executable, "-c", program]
    answer = subprocess.run(words, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [(name, uuid, memory) for name, uuid, memory in json.loads(answer.splitlines()[-1])]


@pytest.fixture(scope="module")
def uuids() -> list[str]:
    """Of all GPUs of the machine."""
    words = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("choice", ["all", "first", "last", "reversed", "uuid", "part of a uuid", "none", "no such"])
def test_the_cards_are_those_that_cuda_shows(choice: str, uuids: list[str]) -> None:
    last = len(uuids) - 1
    chosen = {
        "all": None, "first": "0", "last": str(last), "reversed": ",".join(map(str, range(last, -1, -1))), "uuid": uuids[-1],
        "part of a uuid": uuids[-1][:12], "none": "", "no such": f"0,{last + 1}",
    }[choice]  # fmt: skip
    cuda, ours = (shown(program, chosen, "PCI_BUS_ID") for program in (CUDA, OURS))
    assert [card[:2] for card in ours] == [card[:2] for card in cuda]
    for (_, _, driver), (_, _, torch) in zip(ours, cuda, strict=True):
        assert torch == pytest.approx(driver, rel=0.02)  # CUDA keeps some for itself


def test_a_dry_run_is_judged_by_this_machines_card(data: Path) -> None:
    words = ["-M", "llama32_1b", "--hf-model-id", data / "tokenizer", "--dataset-dir", data / "dataset", "-E", "dry"]
    words += ["-gbs", "8", "--max-steps", "10", "--dry-run"]
    command = [sys.executable, "pretrain_llm.py", *words]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    card = visible_gpus.smallest(1)
    assert card is not None
    assert f"{card.memory / 2**30:.0f} GiB of {card.name} (this machine's GPU)" in said
