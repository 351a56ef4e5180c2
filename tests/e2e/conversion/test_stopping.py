"""A conversion that is stopped or killed: what it says, what it leaves, who is still at work; and others on a shared disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conversion import tiny_models as tiny
from tests.conversion.test_stopping import started
from tests.waiting import LIMIT, all_gone


@pytest.mark.e2e
def test_a_real_import_too(tmp_path: Path) -> None:
    tiny.make("llama_tiny", tmp_path / "hf")
    script = [sys.executable, "ckpt_conversion/convert_from_hf_to_nemo2.py", "--source", str(tmp_path / "hf")]
    # the writer of a tiny model may be done already
    begun, writers = started([*script, "--output-path", str(tmp_path / "out")], tmp_path, writers=0)
    begun.terminate()
    _, said = begun.communicate(timeout=LIMIT)
    assert begun.returncode == 143 and "the import stopped by SIGTERM" in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["hf"] and all_gone(writers)
