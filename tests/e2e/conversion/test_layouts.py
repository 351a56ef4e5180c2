"""Checkpoints that pretrain_llm.py wrote on two ranks export to the very tensors that the training began with.

Each run makes one step at learning rate 0, so its weights are the source's: whatever layout saved them, every bit must come
back. (A run that learns can't be compared so: two layouts round differently.)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.conversion.report import NAME
from nemo_workflow.run_dir.checkpoints import newest_whole
from tests.conversion import tiny_models as tiny
from tests.e2e.conversion.test_families import same_tensors

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[3]
# two data-parallel ranks: tests/e2e/demo/test_demo.py; two stages without virtual ones, and with as many layers in each: tests/e2e/versions/test_matrix.py
LAYOUTS = {"tp2": ["-TP", "2"], "uneven": ["-PP", "2", "-VPP", "2", "--last-stage-layers", "1"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face model of llama_tiny's shape, its NeMo checkpoint, and a corpus."""
    place = tmp_path_factory.mktemp("layouts")
    tiny.make("llama_tiny", place / "hf")
    import_main(["--source", str(place / "hf"), "--output-path", str(place / "nemo"), "--no-verify"])
    texts = [
        json.dumps({"text": f"Document {i}. " + "The quick brown fox jumps over the lazy dog. " * 40})
        for i in range(60)
    ]
    (place / "corpus.jsonl").write_text("\n".join(texts) + "\n")
    command = ["bash", "preprocess_data.sh", "--hf-tokenizer", place / "hf", "--data-prefix", "corpus"]
    command += ["--input-dir", place, "--output-dir", place / "data"]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_exports_what_it_was_given(name: str, made: Path) -> None:
    command = [
        sys.executable, "pretrain_llm.py", "--accelerator", "cpu", "--num-gpus", "2", "--model-name", "llama_tiny",
        "--experiment", name, "--hf-model-id", made / "hf", "--nemo-model", made / "nemo", "--dataset-dir", made / "data",
        "--output-dir", made / "runs", "--seq-length", "64", "--max-steps", "1", "--global-batch-size", "2", "--lr", "1e-30",
        "--min-lr", "0", "--weight-decay", "0", "--warmup-steps", "0", "--val-check-interval", "1", *LAYOUTS[name],
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    checkpoint, _ = newest_whole(made / "runs" / name / "checkpoints")
    assert checkpoint is not None, done.stdout[-2000:]
    output = made / f"back_{name}"
    export_main(
        ["--source", str(checkpoint.path), "--output-path", str(output), *(["--no-verify"] if name != "tp2" else [])]
    )
    same_tensors(made / "hf", output)
    if name == "tp2":
        assert json.loads((output / NAME).read_text())["verified"]
