"""Tokenizer folders that hold a SentencePiece model and no tokenizer.json, as their classes save them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

TEXTS = ["the quick brown fox jumps over the lazy dog", "def add(a, b): return a + b", "0123456789", "zażółć 世界"]
PIECES = 320
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

# class -> (name of its model file, its tokenizer_config.json, how its model is trained)
CLASSES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "LlamaTokenizer": ("tokenizer.model", {**LLAMA, "legacy": False}, {"model_type": "bpe", "byte_fallback": True}),
    "GemmaTokenizer": (
        "tokenizer.model",
        {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
        {"model_type": "bpe", "byte_fallback": True, "bos_piece": "<bos>", "eos_piece": "<eos>", "pad_id": 3,
         "user_defined_symbols": ["<start_of_turn>", "<end_of_turn>"]},
    ),
    "T5Tokenizer": ("spiece.model", {"extra_ids": 10, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
                    {"pad_id": 3}),
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", {**LLAMA, "cls_token": "<s>", "sep_token": "</s>"}, {}),
    "AlbertTokenizer": ("spiece.model", {"bos_token": "[CLS]", "eos_token": "[SEP]"},
                        {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}),
}  # fmt: skip


def model(**options: Any) -> bytes:
    """A small SentencePiece model."""
    import sentencepiece

    written = io.BytesIO()
    defaults = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 50), model_writer=written, vocab_size=PIECES, **(defaults | options)
    )
    return written.getvalue()


def save(folder: Path, name: str) -> Path:
    """Save a tokenizer of the class `name` as a folder."""
    file, config, options = CLASSES[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(model(**options))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **config}))
    return folder
