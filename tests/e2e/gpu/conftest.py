"""Runs every training of these tests once, in one go: their imports overlap, which halves the time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gpu.cases import all_cases
from tools import demo

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer/ and dataset/: GPU_TEST_DATA, or made out of the standard library."""
    if os.environ.get("GPU_TEST_DATA"):
        return Path(os.environ["GPU_TEST_DATA"])
    folder = tmp_path_factory.mktemp("data")
    demo.write_corpus(folder / "text" / "stdlib.jsonl", 4_000_000)
    demo.train_tokenizer(folder / "text" / "stdlib.jsonl", folder / "tokenizer")
    words = ["bash", "preprocess_data.sh", "--hf-tokenizer", folder / "tokenizer", "--data-prefix", "stdlib"]
    words += ["--input-dir", folder / "text", "--output-dir", folder / "dataset"]
    subprocess.run(words, cwd=REPOSITORY, check=True)
    return folder


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each case has a folder of its name."""
    return Path(os.environ.get("GPU_TEST_OUTPUT") or tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="session")
def results(data: Path, output: Path) -> dict[str, dict[str, Any]]:
    """What every case measured, by name."""
    if not (output / "results.json").exists():
        output.mkdir(parents=True, exist_ok=True)
        (output / "cases.json").write_text(json.dumps(all_cases()))
        script = REPOSITORY / "benchmarks" / "gpu" / "run_cases.py"
        words = [sys.executable, script, output / "cases.json", "--data", data, "--out", output]
        subprocess.run(words, cwd=REPOSITORY, check=True)
    return {result["name"]: result for result in json.loads((output / "results.json").read_text())}
