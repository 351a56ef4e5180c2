"""The guide's first half on a made-up Wikipedia: download -> preprocess -> 20 training steps of a tiny model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.data.indexed_dataset import read_pair
from nemo_workflow.run_dir import metrics
from tests.waiting import LIMIT
from tests.wikipedia.conftest import NAME
from tests.wikipedia.dump_site import DumpSite
from tools.demo import train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
STEPS = 20


@pytest.mark.e2e
@pytest.mark.thorough
def test_download_preprocess_train(site: DumpSite, tmp_path: Path) -> None:
    def call(*command: object) -> None:
        subprocess.run([str(word) for word in command], cwd=tmp_path, check=True, timeout=LIMIT)

    call(sys.executable, ROOT / "download_example_data" / "download_wiki.py", "--base-url", site.url)
    data = tmp_path / "wiki_data_zh-classical"
    train_tokenizer(data / f"{NAME}.jsonl", tmp_path / "tokenizer", vocabulary=1024)
    call("bash", ROOT / "preprocess_data.sh", "--ht-tokenizer", tmp_path / "tokenizer", "--data-prefix", NAME,
         "--input-dir", data, "--output-dir", tmp_path / "dataset")  # fmt: skip
    pair = read_pair(tmp_path / "dataset" / "preprocessed" / f"{NAME}_text_document")
    assert pair.documents == len((data / f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines())

    call(sys.executable, ROOT / "pretrain_llm.py", "--accelerator", "cpu", "--num-gpus", 1, "--experiment", "wiki",
         "--model-name", "llama_tiny", "--hf-model-id", tmp_path / "tokenizer", "--dataset-dir", tmp_path / "dataset",
         "--output-dir", tmp_path / "experiments", "--max-steps", STEPS, "--global-batch-size", 8,
         "--micro-batch-size", 8, "--seq-length", 64)  # fmt: skip
    run = tmp_path / "experiments" / "wiki"
    losses = [event["loss"] for event in metrics.read(run / metrics.FILE) if event["event"] == "step"]
    assert len(losses) == STEPS and all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert json.loads((run / metrics.SUMMARY).read_text())["steps"] == STEPS
