"""The fixtures of tests/preprocess."""

from tests.preprocess.conftest import preprocess, reference, tokenizers_dir

__all__ = ["preprocess", "reference", "tokenizers_dir"]
