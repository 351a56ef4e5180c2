"""A signal before the time limit reaches ranks that Apptainer's stand-in starts; the training is a stand-in too. Real Slurm."""

from __future__ import annotations

import pytest

from tests.e2e.slurm.conftest import Boxed, Runs, history, wait_for
from tests.e2e.slurm.daemons import Daemons


@pytest.mark.slurm
def test_the_signal_before_the_time_limit(slurm: Daemons, runs: Runs, boxed: Boxed) -> None:
    flags = ("-N", "2", "--max-steps", "5000", *boxed.flags)
    (job,) = runs.stand_in(slurm, "boxed", *flags, variables=boxed.variables)
    wait_for(lambda: any(event["event"] == "step" for event in history(runs, "boxed")))
    assert runs.found_by(0)["RANK"] == "0" and runs.found_by(1)["RANK"] == "1"
    slurm.run("scancel", "--signal=USR1", job.job_id)  # what --stop-before lets Slurm send
    assert wait_for(lambda: job.exit_code(0)) == 75
    assert history(runs, "boxed")[-1]["reason"] == "stopped"
    assert list((runs.out / "boxed" / "checkpoints").glob("step_*/manifest.json"))


@pytest.mark.slurm
def test_an_image_that_is_not_there_is_refused(slurm: Daemons, runs: Runs, boxed: Boxed) -> None:
    words = ("--container-runtime", "apptainer", "-I", "/no/such.sif")
    done = runs.pretrain("none", *words, **boxed.variables)
    assert done.returncode == 2
    assert "--container-image /no/such.sif: /no/such.sif is not there" in done.stderr
    assert not runs.out.exists()
