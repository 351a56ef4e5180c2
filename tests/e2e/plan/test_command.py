"""The command itself, run as a user runs it: a training run that logs to wandb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import Place

pytestmark = pytest.mark.usefixtures("no_outside")

COMMAND = Path(__file__).parents[3] / "pretrain_llm.py"


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(COMMAND), *words], cwd=cwd, capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.e2e
# more than a minute: a real run and W&B's own service beside it
def test_a_run_logs_to_wandb_and_keeps_the_secrets_to_itself(place: Place) -> None:
    words = place.flags(
        "--wandb", "--wandb-project", "tests", "--max-steps", "4", "--hf-token", "hf-secret", "--seq-length=64",
        "--micro-batch-size=8", "--val-check-interval=4", "--save-every=4",
    )  # fmt: skip
    done = run(*words, cwd=place.root, WANDB_MODE="offline", WANDB_API_KEY="wandb-secret" + "0" * 28)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--hf-token" in done.stderr and "HF_TOKEN" in done.stderr
    folder = place.root / "out" / "pretraining"
    assert losses_in_wandb(folder) == pytest.approx(losses_in_events(folder))
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"hf-secret" not in data, path
            assert b"wandb-secret" not in data, path
    assert "secret" not in done.stdout + done.stderr
    again = run("--config", str(folder / "config.yaml"), "--dry-run=json", cwd=place.root, WANDB_MODE="offline")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["training"]["steps"] == 4


def losses_in_wandb(folder: Path) -> list[float]:
    """The training losses of the one offline run."""
    from nemo_workflow.training import wandb_file

    (file,) = folder.rglob("run-*.wandb")
    return [row["reduced_train_loss"] for row in wandb_file.history(file) if "reduced_train_loss" in row]


def losses_in_events(folder: Path) -> list[float]:
    """What the run itself recorded."""
    from nemo_workflow.run_dir import metrics

    return [event["loss"] for event in metrics.read(folder / metrics.FILE) if "loss" in event]
