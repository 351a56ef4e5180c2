"""Tokenizers that transformers 4.57 wouldn't write itself, from JSONL to a checkpoint: SentencePiece alone, transformers 5's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_workflow.models import tokenizer_files
from tests.models import sentencepiece_folders
from tests.models.test_tokenizer_loading import preprocess, run
from tools import demo


def of_transformers_5(folder: Path) -> Path:
    corpus = folder.with_name("texts.jsonl")
    demo.write_corpus(corpus, limit=200_000)
    demo.train_tokenizer(corpus, folder, vocabulary=512)
    path = folder / "tokenizer_config.json"
    written = {
        "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["<|endoftext|>"],
        "backend": "tokenizers",
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **written}))
    return folder


@pytest.mark.e2e
def test_one_of_transformers_5_encodes(tmp_path: Path) -> None:
    """tests/e2e/conversion trains with such a one and takes its files there and back."""
    assert len(preprocess(of_transformers_5(tmp_path / "tok"), tmp_path))


# more than a minute: a rank, and an export in a process of its own
@pytest.mark.e2e
def test_sentencepiece_alone_trains_and_its_files_come_back(tmp_path: Path) -> None:
    folder = sentencepiece_folders.save(tmp_path / "tok", "LlamaTokenizer")
    preprocess(folder, tmp_path)
    run("pretrain_llm.py", "--accelerator", "cpu", "--num-gpus", 1, "--model-name", "llama_tiny",
        "--hf-model-id", folder, "--dataset-dir", tmp_path / "data", "--output-dir", tmp_path, "--experiment", "run",
        "--global-batch-size", 2, "--seq-length", 32, "--split", "80,20,0", "--max-steps", 1)  # fmt: skip
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step_*1")
    run("ckpt_conversion/convert_from_nemo2_to_hf.py", "--source", checkpoint, "--output-path", tmp_path / "hf")
    for path in tokenizer_files.files_of(folder):
        assert (tmp_path / "hf" / path.name).read_bytes() == path.read_bytes()
