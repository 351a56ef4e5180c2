"""What srun starts: real processes, with a stand-in for training and for what each rank sees on the disk."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.launch import local
from nemo_workflow.launch.slurm import submit
from tests.launch.slurm import plans
from tests.waiting import LIMIT

SEES = "import os\n\n\ndef finished_already(plan):\n    return os.environ['RANK'] == os.environ['SEES_THE_END']\n"
TRAINS = """import os, sys, time
def train(plan, attempt):
    time.sleep(3)  # the other rank may end this one meanwhile
    sys.exit(7)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("sees_the_end", "code"), [("0", 0), ("1", 7)])
def test_rank_0_alone_decides_whether_the_training_is_finished(sees_the_end: str, code: int, tmp_path: Path) -> None:
    plan = dataclasses.replace(plans.plan("no_container"), run_dir=str(tmp_path))
    plan.settings.setup_file = None
    attempt = local.prepare(plan)
    submit.write_attempt(plan, attempt)
    package = attempt / "code" / "nemo_workflow"
    (package / "training" / "resume.py").write_text(SEES)
    (package / "training" / "worker.py").write_text(TRAINS)
    slurm = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "1",
             "SLURM_RESTART_COUNT": "1", "SEES_THE_END": sees_the_end}  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, str(attempt / "code" / "rank.py"), str(attempt)], cwd=tmp_path,
            env=os.environ | slurm | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
        )
        for number in range(2)
    ]  # fmt: skip
    assert [rank.wait(LIMIT) for rank in ranks] == [code, code]
