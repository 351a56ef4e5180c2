"""The tokenizers of tests/preprocess, and each with a large vocabulary too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.preprocess import tokenizer_makers


@pytest.fixture(scope="session")
def tokenizers_dir(tokenizers_dir: Path) -> Path:
    """Beside every NAME a NAME-large of 70,000 entries (int32)."""
    for name, make in tokenizer_makers.MAKERS.items():
        tokenizer_makers.save(make(), tokenizers_dir / f"{name}-large", pad_to=70_000)
    return tokenizers_dir
