"""What a --setup-file may do to the job script that it is read into: the script as bash runs it, and on real daemons."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from nemo_workflow.launch.slurm import script
from nemo_workflow.launch.slurm.cluster import Cluster
from tests.e2e.slurm.conftest import Runs, wait_for
from tests.e2e.slurm.daemons import Daemons
from tests.launch.slurm import plans

SRUN = """#!/bin/bash
case "$*" in *hostname*) echo 10.0.0.5; exit ;; esac
env > "$ENVIRONMENT"
printf '%s\\n' "$@" > "$ENVIRONMENT.words"
exit ${RANKS_END_WITH:-0}
"""


class Script:
    """A job script with --setup-file, run by bash; srun and scontrol are stand-ins."""

    def __init__(self, place: Path):
        plan = plans.plan("no_container")
        self.plan = dataclasses.replace(plan, run_dir=str(place / "run"))
        self.attempt = place / "run" / "attempts" / plans.ATTEMPT
        self.attempt.mkdir(parents=True)
        self.environment = place / "environment"
        for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho n1\n")):
            path = place / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        self.variables = {
            **os.environ,
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "12",
            "SLURMD_NODENAME": "n1",
            "ENVIRONMENT": str(self.environment),
        }

    def run(self, setup: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (self.attempt / script.SETUP).write_text(setup)
        text = script.job_script(self.plan, self.attempt)
        return subprocess.run(
            ["bash", "-s"], input=text, capture_output=True, text=True, check=False, env=self.variables | variables
        )

    @property
    def left(self) -> str:
        return (self.attempt / "exit-0").read_text().strip()


@pytest.fixture
def job(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.mark.slurm
def test_setup_files_in_a_real_job(slurm: Daemons, runs: Runs, tmp_path: Path) -> None:
    setup = tmp_path / "setup.sh"
    setup.write_text("exit 0\n")
    done = runs.pretrain("nothing", "--setup-file", str(setup), "--wait")
    assert (done.returncode, "--setup-file ended the job with exit code 0" in done.stderr) == (1, True), done
    (job,) = runs.jobs("nothing")
    assert wait_for(lambda: (state := Cluster().job(job.job_id)) and state.name) == "FAILED"
    setup.write_text("export run=wiki\n[ -f /no/such ] && . /no/such\n")
    flags = ("--setup-file", str(setup), "--requeue", "3", "--max-steps", "100")
    (job,) = runs.stand_in(slurm, "own", *flags)
    wait_for(lambda: (job.attempt / "at0").exists() and int((job.attempt / "at0").read_text() or 0) > 3)
    slurm.run("scancel", "--signal=USR1", job.job_id)
    wait_for(lambda: job.exit_code(1) == 0)
    assert job.exit_code(0) == 75
