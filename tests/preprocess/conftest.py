"""Tokenizers trained once, Megatron's reference in one process, and a way to run the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.preprocess import command
from nemo_workflow.utils.errors import Refusal
from tests.preprocess import tokenizer_makers
from tests.preprocess.helpers import ROOT, Done, Reference


@pytest.fixture(scope="session")
def tokenizers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of tokenizer: NAME has a small vocabulary (uint16), NAME-large one of 70,000 (int32)."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in tokenizer_makers.MAKERS.items():
        made = make()
        tokenizer_makers.save(made, folder / name)
        tokenizer_makers.save(made, folder / f"{name}-large", pad_to=70_000)
    (folder / "slow").mkdir()  # a class that exists in Python only and needs no files
    (folder / "slow" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "extra_ids": 0}'
    )
    return folder


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    server = Reference(tmp_path_factory.mktemp("reference"))
    yield server
    if server.process is not None:
        server.process.stdin.close()
        server.process.wait(120)


@pytest.fixture
def bound_by_permissions(tmp_path: Path) -> list[str]:
    """What stands before a command that file permissions are to bind; root has to give up the rights to pass over them."""
    locked = tmp_path / "locked"
    locked.touch(mode=0o000)
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.access(locked, os.R_OK) else []
    if not prefix or subprocess.run([*prefix, "cat", locked], capture_output=True, check=False).returncode == 1:
        return prefix
    pytest.skip("no setpriv, or no right to give up rights")


@pytest.fixture
def preprocess() -> Callable[..., Done]:
    """Run `python -m nemo_workflow.preprocess` as a user does."""

    def run(*arguments: object, **kwargs: Any) -> Done:
        command = [*kwargs.pop("within", ()), sys.executable, "-m", "nemo_workflow.preprocess", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)} | kwargs.pop("env", {})
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=False, **kwargs
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def go(tokenizers_dir, tmp_path, capsys):
    """Run the command in this process; returns (exit code, stderr)."""

    def run(*arguments: object, tokenizer: str = "byte_bpe", out: str = "out") -> tuple[int, str]:
        line = ["--tokenizer", tokenizers_dir / tokenizer, "--output-dir", tmp_path / out, "--workers", 2, *arguments]
        try:
            code = command.main([str(word) for word in line])
        except Refusal as refusal:
            return 2, "\n".join(refusal.problems)
        return code, capsys.readouterr().err

    return run
