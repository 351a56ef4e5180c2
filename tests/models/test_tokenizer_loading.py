"""Tokenizers that transformers 4.57 wouldn't write itself, from JSONL to a checkpoint: SentencePiece alone, transformers 5's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nemo_workflow.models import tokenizer_loading
from tests.models import sentencepiece_folders

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = "def add(a, b): return a + b"


def run(*words: object) -> None:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def preprocess(tokenizer: Path, place: Path) -> np.ndarray:
    """Tokens of the dataset that is made of 400 times the same text."""
    (place / "in.jsonl").write_text(f"{json.dumps({'text': TEXT})}\n" * 400)
    run("-m", "nemo_workflow.preprocess", "--input", place / "in.jsonl", "--tokenizer", tokenizer,
        "--output-dir", place / "data")  # fmt: skip
    return np.fromfile(place / "data" / "preprocessed" / "in_text_document.bin", np.uint16)


@pytest.mark.parametrize("name", sentencepiece_folders.CLASSES)
def test_preprocessing_has_the_ids_of_transformers(name: str, tmp_path: Path) -> None:
    folder = sentencepiece_folders.save(tmp_path / "tok", name)
    loaded = tokenizer_loading.load(folder)
    ids = loaded(TEXT).input_ids
    one = [*ids, loaded.eos_token_id]
    assert preprocess(next(iter(folder.glob("*.model"))), tmp_path).tolist() == one * 400
