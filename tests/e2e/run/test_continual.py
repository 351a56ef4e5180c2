"""docs/continual.md: each of its commands run as printed, but for the number of steps, one after the other in a folder like a clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.run_dir import metrics
from tests.e2e.run.harness import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]
PAGE = REPOSITORY / "docs" / "continual.md"
FEWER = {  # steps of the page -> of the test, everywhere on the page
    "--max-steps 120": "--max-steps 12", "--val-check-interval 40": "--val-check-interval 12", "max-steps: 120": "max-steps: 6",
    "val-check-interval: 20": "val-check-interval: 2", "step_00000100": "step_00000004", "--decay-steps 20": "--decay-steps 2",
    "text\n": "text --documents 300\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page's blocks, run; `said` is what each printed, by its first words."""
    place = tmp_path_factory.mktemp("continual")
    for name in ("pretrain_llm.py", "preprocess_data.sh", "ckpt_conversion", "tools", "nemo_workflow"):
        (place / name).symlink_to(REPOSITORY / name)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    said = []
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for printed, fewer in FEWER.items():
            block = block.replace(printed, fewer)
        done = subprocess.run(
            ["bash", "-euc", block], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}{done.stdout[-3000:]}{done.stderr[-3000:]}"
        said.append(done.stdout)
    return SimpleNamespace(place=place, runs=place / "nemo_experiments", said=said)


def set_losses(page: Any, run: str) -> dict[str, list[float]]:
    """Set -> its loss before the first step and at each validation."""
    events = [e for e in metrics.read(page.runs / run / metrics.FILE) if e["event"] == "validation"]
    return {name: [event["set_losses"][name] for event in events] for name in events[0]["set_losses"]}


def test_new_tokens_make_the_new_languages_text_shorter(page: Any) -> None:
    shorter, longer = map(float, re.findall(r"(\d\.\d\d)(?: tokens per character| with)", page.said[1]))
    assert longer == pytest.approx(3) and shorter < 0.5
    assert "new tokens begin" in page.said[1] or "tokens added" in page.said[1]


def test_the_old_language_is_forgotten_and_each_source_shows_it(page: Any) -> None:
    alone, mixed = set_losses(page, "chinese"), set_losses(page, "mixed")
    assert alone["english"][-1] > alone["english"][0] + 0.5 and alone["chinese"][-1] < alone["chinese"][0] - 1
    assert mixed["english"][0] == pytest.approx(alone["english"][0], abs=0.1)  # both begin with the extended model
    assert mixed["english"][-1] < alone["english"][-1] - 0.5
    assert "Loss on each validation set" in (page.runs / "compare-chinese-mixed.html").read_text(encoding="utf-8")


def test_the_training_loss_of_each_source_adds_up_to_the_whole(page: Any) -> None:
    steps = [e for e in metrics.read(page.runs / "mixed" / metrics.FILE) if e["event"] == "step"]
    (found,) = [e["source_losses"] for e in steps if "source_losses" in e]  # at the last step: sums over all six
    assert list(found) == ["chinese", "english"]  # three sequences to one, of one length
    assert 0.75 * found["chinese"] + 0.25 * found["english"] == pytest.approx(
        sum(e["loss"] for e in steps) / 6, rel=1e-3
    )
    assert "Training loss of each source" in (page.runs / "mixed" / "report.html").read_text(encoding="utf-8")
    alone = [e for e in metrics.read(page.runs / "chinese" / metrics.FILE) if e["event"] == "step"]
    assert not any("source_losses" in e for e in alone)


def test_a_decay_branches_off_is_exported_and_continues_a_text(page: Any) -> None:
    events = metrics.read(page.runs / "decayed" / metrics.FILE)
    rates = [event["lr"] for event in events if event["event"] == "step"]
    assert [event["step"] for event in events if event["event"] == "step"] == [5, 6] and rates[0] > rates[1]
    begun = [e for e in metrics.read(page.runs / "mixed" / metrics.FILE) if e["event"] == "step" and e["step"] == 5]
    assert rates[0] == begun[0]["lr"]
    assert (page.runs / "decayed" / "hf_model" / "conversion_report.json").is_file()
    assert any(line.startswith("早上") for line in page.said[-2].splitlines())


def test_a_mean_is_exported_verified_and_evaluated_beside_its_checkpoints(page: Any) -> None:
    from nemo_workflow.conversion.nemo_folder import NemoReader

    losses = [float(found) for found in re.findall(r"^validation loss of .*: ([\d.]+) \(", page.said[-1], re.MULTILINE)]
    logged = [e for e in metrics.read(page.runs / "mixed" / metrics.FILE) if e["event"] == "validation"]
    assert losses[:3] == [round(event["val_loss"], 4) for event in logged[1:]]
    assert min(losses[:3]) - 0.2 < losses[3] < losses[0]
    mean = NemoReader(page.runs / "mixed" / "averaged" / "step_00000002-00000006" / "weights")
    parts = [NemoReader(page.runs / "mixed" / "checkpoints" / f"step_{step:08d}" / "weights") for step in (2, 4, 6)]
    for key in mean.tensors:
        total = sum(part.read(key).float() * (1 / 3) for part in parts)
        wanted = total.to(mean.tensors[key].properties.dtype).float()
        assert (mean.read(key).float() - wanted).abs().max() <= 2**-8 * wanted.abs().max(), key
    assert mean.objects == parts[2].objects and len(mean.tensors) == len(parts[0].tensors)
