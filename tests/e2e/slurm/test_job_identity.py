"""A job's number alone says little: numbers come again, and sites wrap Slurm's commands. On real daemons."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from nemo_workflow.launch.slurm.cluster import Cluster
from nemo_workflow.run_dir import slurm_jobs
from tests.e2e.slurm.conftest import Runs, wait_for
from tests.e2e.slurm.daemons import Daemons


@pytest.mark.slurm
@pytest.mark.parametrize("name", ["another", "stale.train"])
def test_another_job_of_the_number_is_left_alone(name: str, slurm: Daemons, runs: Runs) -> None:
    """Also one of the very name."""
    assert runs.pretrain("stale", "--slurm-arg", "hold").returncode == 0
    (job,) = runs.jobs("stale")
    slurm.run("scancel", job.job_id)
    words = ("--parsable", "-A", "a1", "-p", "batch", "-o", "/dev/null", f"--job-name={name}", "--wrap", "sleep 300")
    other = slurm.run("sbatch", *words).strip()
    slurm_jobs.record(dataclasses.replace(job, job_id=other))
    wait_for(lambda: (state := Cluster().job(other)) and state.name == "RUNNING")
    status = runs.control("status", "stale").stdout
    assert f"Slurm no longer knows it, the number now belongs to another job, {name} of root" in status
    for more in ((), ("--now",)):
        done = runs.control("cancel", "stale", *more)
        assert (done.returncode, "not running, nothing to cancel" in done.stderr) == (2, True), done
    assert runs.pretrain("stale", "--slurm-arg", "hold").returncode == 0  # no second job of the run
    assert runs.control("cancel", "stale").returncode == 0
    state = Cluster().job(other)
    assert state is not None
    assert state.name == "RUNNING"
    slurm.run("scancel", other)


WRAPPED = ("sbatch", "scontrol", "sinfo", "squeue", "sacct", "sacctmgr", "scancel", "srun")
GREETING = "echo 'Welcome to the cluster | JobId=7 JobState=FINE'\n"


def wrap(folder: Path, command: str, before: str, after: str = "") -> None:
    """A site's script in front of one of Slurm's commands."""
    path = folder / command
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/bash\n{before}{shutil.which(command)} "$@" || exit\n{after}')
    path.chmod(0o755)


@pytest.mark.slurm
def test_commands_that_a_site_has_wrapped(slurm: Daemons, runs: Runs, tmp_path: Path) -> None:
    """Lines before and after the number; then none at all, and the job is found by its name."""
    for command in WRAPPED:
        wrap(tmp_path / "bin", command, GREETING, "echo 'Have a nice day'\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    runs.environment = {**os.environ, "PATH": path}
    assert runs.pretrain("wrap", "--slurm-arg", "hold").returncode == 0
    (job,) = runs.jobs("wrap")
    assert job.job_id.isdigit()
    assert (job.uid, job.cluster) == (os.geteuid(), "ci")
    again = runs.pretrain("wrap", "--slurm-arg", "hold")
    assert (again.returncode, f"job {job.job_id} of it is pending" in again.stderr) == (2, True), again
    assert "PENDING" in runs.control("status", "wrap").stdout
    assert runs.control("cancel", "wrap").returncode == 0
    unknown = runs.pretrain("wrap", "-P", "nope")
    assert unknown.stderr.rstrip().endswith("there are: batch, closed, lossy, spare, low, high")

    quiet = f'case "$*" in *--parsable*) {shutil.which("sbatch")} "$@" >/dev/null && echo done; exit ;; esac\n'
    wrap(tmp_path / "bin", "sbatch", quiet)
    assert runs.pretrain("wrap", "--slurm-arg", "hold").returncode == 0
    job = runs.jobs("wrap")[-1]
    assert "PENDING" in runs.control("status", job.job_id).stdout
    assert runs.control("cancel", "wrap").returncode == 0

    wrap(tmp_path / "bin", "squeue", "exit\n")
    done = runs.pretrain("wrap", "--slurm-arg", "hold")
    assert (done.returncode, "printed no job number, only 'done'" in done.stderr) == (1, True), done
    slurm.run("scancel", "--name=wrap.train")
