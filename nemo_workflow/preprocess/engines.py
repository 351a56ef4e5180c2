"""Texts -> token ids. Each engine gives what the Hugging Face tokenizer gives; they differ in speed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from nemo_workflow.preprocess.tokenizer import TokenizerSpec

Ids = np.ndarray  # uint32
Lengths = np.ndarray  # int64


class Engine(Protocol):
    """`encode` gives all ids in a row and the number of ids of each text; `special` adds the tokenizer's own around each."""

    name: str

    def encode(self, texts: list[str], special: bool) -> tuple[Ids, Lengths]: ...


class FastokensEngine:
    """The Rust library fastokens: many times faster than `tokenizers`, for the tokenizers that it takes."""

    name = "fastokens"

    def __init__(self, tokenizer: Any, split_special: bool = False):
        """`tokenizer` is what `loading.load_fastokens` returned."""
        self.tokenizer, self.split_special = tokenizer, split_special

    def encode(self, texts: list[str], special: bool) -> tuple[Ids, Lengths]:
        ids, offsets = self.tokenizer.encode_batch_flat(
            texts, add_special_tokens=special, split_special_tokens=self.split_special
        )
        return np.frombuffer(ids, np.uint32), np.diff(np.frombuffer(offsets, np.int64))


class TokenizersEngine:
    """Hugging Face's own Rust library: the reference."""

    name = "tokenizers"

    def __init__(self, spec: TokenizerSpec):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(spec.read_json())
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = spec.split_special

    def encode(self, texts: list[str], special: bool) -> tuple[Ids, Lengths]:
        arrays: list[np.ndarray] = []
        for batch in _batches(texts, 300_000):  # an Encoding takes 100 bytes per token
            for encoding in self.tokenizer.encode_batch_fast(batch, add_special_tokens=special):
                arrays.append(np.array(encoding.ids, np.uint32))
        return _joined(arrays)


class PythonEngine:
    """A tokenizer that exists in Python only, through transformers."""

    name = "transformers (slow)"

    def __init__(self, spec: TokenizerSpec):
        from nemo_workflow.preprocess.tokenizer import load_with_transformers

        self.tokenizer: Any = load_with_transformers(spec.folder, spec.trust_remote_code)

    def encode(self, texts: list[str], special: bool) -> tuple[Ids, Lengths]:
        encode = self.tokenizer.encode
        return _joined([np.array(encode(text, add_special_tokens=special), np.uint32) for text in texts])


def _batches(texts: list[str], characters: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > characters:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _joined(arrays: list[np.ndarray]) -> tuple[Ids, Lengths]:
    lengths = np.array([len(array) for array in arrays], np.int64)
    return (np.concatenate(arrays) if arrays else np.empty(0, np.uint32)), lengths
