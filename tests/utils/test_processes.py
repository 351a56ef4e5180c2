"""Signals that a command takes while it works."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.e2e.run.harness import REPOSITORY

HEARS = """
import os, signal
from nemo_workflow.utils.processes import handled
heard = []
with handled(lambda number, frame: heard.append(number), signal.SIGHUP, signal.SIGTERM):
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
print(*map(int, heard))
"""


@pytest.mark.parametrize(
    ("before", "heard"), [([], [signal.SIGHUP, signal.SIGTERM]), (["nohup"], [signal.SIGTERM])], ids=["plain", "nohup"]
)
def test_nohup_protects(before: list[str], heard: list[int]) -> None:
    done = subprocess.run(
        [*before, sys.executable, "-c", HEARS], cwd=REPOSITORY, capture_output=True, text=True, check=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    assert [int(word) for word in done.stdout.split()] == heard
