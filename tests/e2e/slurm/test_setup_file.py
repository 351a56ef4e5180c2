"""What a --setup-file may do to the job script that it is read into: the script as bash runs it, and on real daemons."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_workflow.launch.slurm.cluster import Cluster
from tests.e2e.slurm.conftest import Runs, wait_for
from tests.e2e.slurm.daemons import Daemons


@pytest.mark.slurm
def test_setup_files_in_a_real_job(slurm: Daemons, runs: Runs, tmp_path: Path) -> None:
    setup = tmp_path / "setup.sh"
    setup.write_text("exit 0\n")
    done = runs.pretrain("nothing", "--setup-file", str(setup), "--wait")
    assert (done.returncode, "--setup-file ended the job with exit code 0" in done.stderr) == (1, True), done
    (job,) = runs.jobs("nothing")
    assert wait_for(lambda: (state := Cluster().job(job.job_id)) and state.name) == "FAILED"
    setup.write_text("export run=wiki\n[ -f /no/such ] && . /no/such\n")
    flags = ("--setup-file", str(setup), "--requeue", "3", "--max-steps", "400")
    (job,) = runs.stand_in(slurm, "own", *flags)
    wait_for(lambda: (job.attempt / "at0").exists() and int((job.attempt / "at0").read_text() or 0) > 3)
    runs.how.write_text('{"seconds": 0.005}')  # of its next start, to which nothing more is done
    slurm.run("scancel", "--signal=USR1", job.job_id)
    wait_for(lambda: job.exit_code(1) == 0)
    assert job.exit_code(0) == 75
