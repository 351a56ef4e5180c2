"""A run whose micro batch was chosen for it runs out of memory: within its first steps it starts over with a smaller one.

On a CPU the size is never chosen by us, so that the choice is made here; the failure of the rank is raised, the rest is real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.run_dir import metrics
from tests.e2e.run.harness import FAULTS, REPOSITORY, Experiment
from tests.waiting import LIMIT

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]
PROGRAM = """
import sys
from nemo_workflow.config import command_line, micro_batch
from nemo_workflow.launch import local as launch
from nemo_workflow.utils.errors import run_command
from nemo_workflow.config.resolve import make_plan

def main():
    plan = make_plan(command_line.parse(sys.argv[1:]))
    return launch.run_local(micro_batch.with_size(plan, 2, "chosen"))

run_command(main, program="pretrain_llm.py")
"""


def started(corpus: Path, folder: Path, step: int) -> tuple[Experiment, subprocess.CompletedProcess[str]]:
    run = Experiment(corpus, folder / "out", steps=4)
    words = [word for word in run.command()[2:] if word not in ("--micro-batch-size", "2")]
    environment = {**os.environ, "PYTHONPATH": f"{FAULTS}:{REPOSITORY}", "FAULT": f"step {step} 0 oom"}
    command = [sys.executable, "-c", PROGRAM, *words]
    return run, subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
    )


def test_a_start_that_runs_out_of_memory_begins_again_with_less(corpus: Path, tmp_path: Path) -> None:
    run, ended = started(corpus, tmp_path, step=2)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "micro batch size 2 ran out of memory; starting over with 1" in ended.stdout
    told = metrics.read(run.folder / metrics.FILE)
    assert [event["step"] for event in told if event["event"] == "step"] == [1, 1, 2, 3, 4]
    assert json.loads((run.folder / "plan.json").read_text())["settings"]["micro_batch_size"] == 1
