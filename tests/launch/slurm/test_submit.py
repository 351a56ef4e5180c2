"""Submitting where Slurm's commands are stubs: what real daemons do not do at the moment that a test asks for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.run_dir import slurm_jobs
from tests.waiting import LIMIT

REPOSITORY = Path(__file__).resolve().parents[3]
STUBS = {
    "sbatch": """case "$*" in
  *--version*) ;;
  *--test-only*) cat >/dev/null ;;
  *) echo taken >> "$TAKEN"; kill -$SENT 0; sleep 0.5; wc -l < "$TAKEN" ;;
esac""",
    "scontrol": """case "$*" in
  *partition*) echo "PartitionName=batch State=UP" ;;
  *config*) ;;
  *) exit 1 ;;
esac""",
    "sinfo": """case "$*" in *%N*) echo "node_or_partition|n1|idle|(null)|4" ;; *) echo "node_or_partition|batch" ;; esac""",
    "sacct": "exit 1",
    "sacctmgr": "exit 1",
    "srun": "exit 1",
}
# the data that the plan names are not there, so what a resume compares is left out
PROGRAM = """
import dataclasses, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
from nemo_workflow.training import resume as resuming
from nemo_workflow.utils.errors import run_command
from nemo_workflow.launch.slurm import submit
from tests.launch.slurm import plans
resuming.check_changes = lambda plan: ({}, [])
plan = dataclasses.replace(plans.plan("cpu"), run_dir=sys.argv[1])
plan.settings.chain = int(sys.argv[2])
class settings:
    wait = False
run_command(lambda: submit.run_slurm(plan, settings))
"""


@pytest.fixture
def stubs(tmp_path: Path) -> dict[str, str]:
    """An environment in which sbatch takes a job, and its whole process group gets a signal before it has said so."""
    for name, text in STUBS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        # not sh: dash lets go of the signals that it should hold back
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TAKEN": str(tmp_path / "taken")}


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [("INT", 130), ("TERM", -signal.SIGTERM), ("HUP", -signal.SIGHUP)])
def test_a_job_that_slurm_took_is_recorded_whatever_signal_comes(
    sent: str, code: int, stubs: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, run, "2"], env=stubs | {"SENT": sent}, cwd=REPOSITORY, capture_output=True,
        text=True, check=False, timeout=LIMIT, start_new_session=True,
    )  # fmt: skip
    assert [job.job_id for job in slurm_jobs.jobs_of(run)] == ["1", "2"], done
    assert "job 2 (link 2 of 2)" in done.stdout
    assert done.returncode == code
