"""The job script's lines for Apptainer as bash runs them; srun, scontrol and Apptainer are stand-ins."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from nemo_workflow.launch.slurm import preflight, script
from nemo_workflow.launch.slurm.cluster import Answer, Cluster
from tests.launch.slurm import plans

# a rank's command: its words after srun's own options, which all begin with --
SRUN = """#!/bin/bash
case "$*" in *hostname*) echo 10.0.0.5; exit ;; esac
while [[ $1 == --* ]]; do case $1 in --*=*) shift ;; *) shift 2 ;; esac; done
exec "$@"
"""
PYTHON = '#!/bin/bash\nenv > "$FOUND"; pwd > "$FOUND.pwd"; exit "${RANKS_END_WITH:-0}"\n'
STAND_IN = Path(__file__).with_name("apptainer_stand_in.py")


class Job:
    """A job script of a CPU run, and the folder that is the nodes' PATH."""

    def __init__(self, place: Path):
        self.place, self.bin = place, place / "bin"
        self.attempt = place / "runs" / "gold" / "attempts" / plans.ATTEMPT
        for folder in (self.bin, self.attempt, place / "image_bin"):
            folder.mkdir(parents=True)
        self.program("srun", SRUN)
        self.program("scontrol", "#!/bin/bash\necho n1\n")
        self.program("apptainer", STAND_IN.read_text(encoding="utf-8"))
        (place / "image_bin" / "python").write_text(PYTHON)
        (place / "image_bin" / "python").chmod(0o755)
        self.image = place / "nemo.sif"
        self.sets = f"PATH={place / 'image_bin'}:/usr/bin:/bin\nPYTHONPATH=/opt/NeMo\n"
        self.image.write_text(self.sets)
        self.log = place / "apptainer.log"

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, image: str | None = None, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        plan = plans.plan("cpu")
        settings = dataclasses.replace(
            plan.settings, no_container=False, container_runtime="apptainer", output_dir=str(self.place / "runs"),
            container_image=image or str(self.image), container_env=flags,
        )  # fmt: skip
        plan = dataclasses.replace(plan, settings=settings, run_dir=str(self.place / "runs" / "gold"), sources=())
        environment = os.environ | {
            "PATH": f"{self.bin}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1", "IMAGE_SETS": self.sets,
            "APPTAINER_LOG": str(self.log), "FOUND": str(self.place / "found"), "HF_HOME": "/no/such",
        }  # fmt: skip
        return subprocess.run(
            ["bash", "-s"], input=script.job_script(plan, self.attempt), text=True, capture_output=True, check=False,
            env=environment | variables,
        )  # fmt: skip

    @property
    def found(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.place / "found").read_text().splitlines() if "=" in line)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("HF_HOME", "/no/such")
    return Job(tmp_path)


@pytest.mark.slow
def test_a_rank_is_started_by_the_images_python(job: Job) -> None:
    """With the job's environment, but not with what would lead the image's Python astray."""
    done = job.run(PYTHONPATH="/home/me/lib", HF_TOKEN="hf_secret", ODD="a b'\"$HOME;`x`", LD_PRELOAD="")
    assert done.returncode == 0, done.stderr
    assert job.found["PYTHONPATH"] == "/opt/NeMo" and job.found["PYTHONNOUSERSITE"] == "1"
    assert job.found["ODD"] == "a b'\"$HOME;`x`" and job.found["HF_TOKEN"] == "hf_secret"
    assert job.found["MASTER_ADDR"] == "10.0.0.5"
    assert (job.place / "found.pwd").read_text().strip() == str(job.attempt)
    assert "hf_secret" not in job.log.read_text() + done.stdout + done.stderr


def test_container_env_keeps_the_jobs_value(job: Job) -> None:
    done = job.run(None, "PYTHONPATH", "UNSET_ONE", PYTHONPATH="/home/me/lib")
    assert done.returncode == 0, done.stderr
    assert job.found["PYTHONPATH"] == "/home/me/lib" and "UNSET_ONE" not in job.found


def test_the_exit_code_is_the_ranks(job: Job) -> None:
    assert job.run(RANKS_END_WITH="7").returncode == 7
    assert (job.attempt / "exit-0").read_text() == "7\n"


def test_a_registrys_image_is_pulled_once(job: Job) -> None:
    for _ in range(2):
        done = job.run("nvcr.io/nvidia/nemo:25.11")
        assert done.returncode == 0, done.stderr
    pulls = [line for line in job.log.read_text().splitlines() if line.startswith("pull")]
    file = job.place / "runs" / ".apptainer" / "nvcr.io_nvidia_nemo_25.11.sif"
    assert pulls == [f"pull --force {file}.12 docker://nvcr.io/nvidia/nemo:25.11"]
    assert file.is_file()


@pytest.mark.parametrize("what", ["no apptainer", "no image"])
def test_what_the_node_lacks_is_told_where_status_looks(what: str, job: Job) -> None:
    if what == "no apptainer":
        (job.bin / "apptainer").unlink()
    done = job.run("docker://missing" if what == "no image" else None)
    said = {
        "no apptainer": "neither apptainer nor singularity is on the PATH",
        "no image": "docker://missing could not be pulled",
    }[what]
    assert done.returncode == 1
    assert said in done.stderr
    assert said in (job.attempt / "rank0.error").read_text().splitlines()[1]
    assert not list((job.place / "runs").glob(".apptainer/*.sif*"))


def test_singularity_does_as_well(job: Job) -> None:
    text = (job.bin / "apptainer").read_text().replace("APPTAINERENV_", "SINGULARITYENV_")
    (job.bin / "apptainer").unlink()
    job.program("singularity", text)
    assert job.run(None, "PYTHONPATH", PYTHONPATH="/home/me/lib").returncode == 0
    assert job.found["PYTHONPATH"] == "/home/me/lib"


def test_what_a_login_node_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's answers are stood in for."""
    lacks: list[str] = []

    def ask(self: Cluster, *words: str, **_: object) -> Answer:
        return Answer(1, "", "not found") if any(word in lacks for word in words) else Answer(0, "", "")

    monkeypatch.setattr(Cluster, "ask", ask)
    plan = plans.plan("apptainer")
    assert list(preflight._no_image(Cluster(), plan)) == [] == list(preflight._apptainer_notes(Cluster(), plan))
    lacks += ["/shared/images/nemo.sif", "apptainer", "singularity"]
    (problem,) = preflight._no_image(Cluster(), plan)
    assert problem.startswith("--container-image /shared/images/nemo.sif: /shared/images/nemo.sif is not there")
    (note,) = preflight._apptainer_notes(Cluster(), plan)
    assert "--setup-file" in note
    pulls = plans.plan("apptainer_pulls")
    assert list(preflight._no_image(Cluster(), pulls)) == []
    lacks.append(file := "/shared/runs/.apptainer/nvcr.io_nvidia_nemo_25.11.sif")
    (note,) = preflight._apptainer_notes(Cluster(), pulls)
    assert f"apptainer pull {file} docker://nvcr.io/nvidia/nemo:25.11" in note
