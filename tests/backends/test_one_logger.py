"""NeMo's telemetry leaves nothing in the user's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from nemo_workflow.backends import one_logger
if sys.argv[1] == "left out":
    one_logger.leave_out()
from nv_one_logger.api.config import LoggerConfig, OneLoggerConfig
whole = OneLoggerConfig(application_name="nemo", session_tag_or_fn="x", world_size_or_fn=1)
print(json.dumps([str(getattr(made, name)) for made in (LoggerConfig(), whole.logger_config) for name in one_logger.FILES]))
"""


@pytest.mark.parametrize(
    ("way", "files"), [("left out", [os.devnull] * 4), ("as it is", ["onelogger.log", "onelogger.err"] * 2)]
)
def test_its_files_go_nowhere(way: str, files: list[str]) -> None:
    """The configuration that NeMo makes as it is imported. As it is, it names two files of the current folder."""
    words = [sys.executable, "-c", PROGRAM, way]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == files
