"""NeMo's telemetry leaves nothing in the user's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.e2e
def test_nothing_is_written_into_the_current_folder(tmp_path: Path) -> None:
    code = "from nemo_workflow.backends import cpu\ncpu.install()\nfrom nemo.lightning import callback_group as c\nprint(c.CallbackGroup.get_instance())"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []
