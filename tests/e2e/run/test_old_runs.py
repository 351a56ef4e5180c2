"""A run that commit daff424 left behind is continued and converted by today's code.

old_runs/run_of_daff424.tar.xz was made by that commit's own commands (old_runs/make.sh): a Llama of one layer, four steps on a CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.run_dir import metrics
from nemo_workflow.training import resume
from nemo_workflow.utils.errors import Refusal
from tests.e2e.run.harness import REPOSITORY

KEPT = Path(__file__).parent / "old_runs" / "run_of_daff424.tar.xz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The old folders: run/, hf/ (its tokenizer), dataset/, nemo/ (the model that it started from)."""
    with tarfile.open(KEPT) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def flags(old: Path, *more: str) -> list[str]:
    """Its own command, with six steps instead of four."""
    return [
        "--accelerator", "cpu", "--model-name", "llama32_1b", "--nemo-model", str(old / "nemo"), "--hf-model-id", str(old / "hf"),
        "--dataset-dir", str(old / "dataset"), "--output-dir", str(old), "--experiment", "run", "--num-gpus", "1",
        "--global-batch-size", "4", "--micro-batch-size", "2", "--seq-length", "64", "--split", "500,500,0", "--max-steps", "6",
        "--save-every", "2", "--val-check-interval", "2", "--log-every", "1", "--keep-checkpoints", "1", *more,
    ]  # fmt: skip


def changes(old: Path, *more: str) -> list[str]:
    return resume.check_changes(make_plan(command_line.parse(flags(old, *more))))[1]


def test_nothing_but_the_steps_has_changed(old: Path) -> None:
    told = changes(old)
    assert [line.partition(": ")[2] for line in told] == ["--max-steps (4 -> 6)"]


def test_another_tokenizer_is_still_refused(old: Path) -> None:
    config = old / "hf" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"model_max_length": 100}))
    changes(old)  # no text has other ids for that
    file = old / "hf" / "tokenizer.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = whole["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(Refusal, match="--allow-change tokenizer"):
        changes(old)


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
@pytest.mark.thorough
def test_it_is_converted_and_goes_on(old: Path) -> None:
    saved, out = str(old / "run" / "checkpoints" / "step_00000004"), old / "out"
    run("ckpt_conversion/convert_from_nemo2_to_hf.py", "--source", saved, "--output-path", str(out))
    assert json.loads((out / "conversion_report.json").read_text(encoding="utf-8"))["verified"]
    run("pretrain_llm.py", *flags(old))
    events = metrics.effective(metrics.read(old / "run" / metrics.FILE))
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [e["step"] for e in events if e["event"] == "start"] == [0, 4]
