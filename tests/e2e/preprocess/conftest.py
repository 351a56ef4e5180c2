"""The fixtures of tests/preprocess."""

from tests.preprocess.conftest import go, preprocess, reference, tokenizers_dir

__all__ = ["go", "preprocess", "reference", "tokenizers_dir"]
