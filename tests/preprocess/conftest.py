"""A way to run the command in this process, and one to be bound by permissions; more lies in fixtures.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nemo_workflow.preprocess import command
from nemo_workflow.utils.errors import Refusal


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
