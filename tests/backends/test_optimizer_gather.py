"""The optimizer's state in a checkpoint, gathered when it is written: real ranks over gloo, real buffers, real files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT

HERE = Path(__file__).resolve().parent


@pytest.mark.e2e
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_holds_what_the_optimizer_has(tmp_path: Path, ranks: int) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.backends.gather_ranks", str(rank), str(ranks), str(tmp_path)],
            cwd=HERE.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0 and b"the same" in out, err.decode()[-3000:]
