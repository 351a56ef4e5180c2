"""Every row of the registry fits the installed libraries, before anything is patched."""

from __future__ import annotations

import subprocess
import sys

import pytest

# rows whose target is there with Transformer Engine, or a torch for GPUs, only; and that of another numpy
NOT_HERE = {"install", "apply_rotary", "forward", "in_pieces", "for_kernels", "product"}
PROGRAM = """
from nemo_workflow.backends import memory_pool, one_logger
one_logger.leave_out()
memory_pool.leave_out()
from nemo_workflow.backends.patching import problems_of
from nemo_workflow.backends.registry import PATCHES
for row in PATCHES:
    for problem in problems_of(row):
        print("ROW", row.name, problem)
"""


@pytest.mark.e2e
@pytest.mark.thorough
def test_every_row_fits_what_is_installed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.startswith("ROW")]
    assert [row for row in found if row[0] not in NOT_HERE] == []
