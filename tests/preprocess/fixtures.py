"""Tokenizers trained once, Megatron's reference in one process, and the command as a user runs it.

tests/conftest.py hands them to all folders, so that each is made once in a session.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.preprocess.helpers import ROOT, Done, Reference
from tests.waiting import LIMIT


@pytest.fixture(scope="session")
def tokenizers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of tokenizer, each with a small vocabulary (uint16)."""
    from tests.preprocess import tokenizer_makers

    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in tokenizer_makers.MAKERS.items():
        tokenizer_makers.save(make(), folder / name)
    (folder / "slow").mkdir()  # a class that exists in Python only and needs no files
    (folder / "slow" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "extra_ids": 0}'
    )
    return folder


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    server = Reference(tmp_path_factory.mktemp("reference"))
    yield server
    server.close()


@pytest.fixture
def preprocess() -> Callable[..., Done]:
    """Run `python -m nemo_workflow.preprocess` as a user does."""

    def run(*arguments: object, **kwargs: Any) -> Done:
        words = ["-m", "nemo_workflow.preprocess", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)} | kwargs.pop("env", {})
        within = kwargs.pop("within", ())
        if within or kwargs:
            command = [*within, sys.executable, *words]
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=False, **kwargs
            )
        else:
            done = forked.run(words, env=environment)
        return Done(done.returncode, done.stdout, done.stderr)

    return run
