"""Rules that are told from flags alone, and reading what Slurm's commands print."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.checks import slurm
from nemo_workflow.launch.slurm import cluster, login
from nemo_workflow.launch.slurm.cluster import Answer, Cluster, JobState
from nemo_workflow.launch.slurm.preflight import gpu_count
from nemo_workflow.run_dir.slurm_jobs import Job
from nemo_workflow.utils.errors import Refusal

BASE = ["-M", "llama_tiny", "--hf-model-id", "gpt2", "--dataset-dir", "/data"]


def problems(*flags: str) -> list[str]:
    settings = command_line.parse([*BASE, *flags])
    return list(slurm.find_problems(SimpleNamespace(settings=settings, sources=())))


def test_a_plain_slurm_run_meets_the_rules() -> None:
    assert problems("--executor", "slurm", "--time", "4:00:00", "--container-mounts", "/data:/data:ro") == []
    assert problems("--executor", "slurm", "--timeout-minutes", "5") == []


@pytest.mark.parametrize(
    ("flags", "flag", "mend"),
    [
        (["--output-dir", "/a b"], "--output-dir", "choose another folder"),
        (["--no-container", "--output-dir", "/x/nemo_runs"], "--output-dir", "choose another folder"),
        (["-E", "a;b"], "--experiment", "letters"),
        (["--time", "5"], "--time", "lower --stop-before"),
        (["--dependency", "afterok: 5"], "--dependency", "TYPE:JOB"),
        (["--slurm-arg", "nodes=3"], "--slurm-arg nodes=3", "use --num-nodes"),
        (["--slurm-arg", "signal=TERM@9"], "--slurm-arg", "use --stop-before"),
        (["--slurm-arg", "output=x"], "--slurm-arg", "leave it out"),
        (["--slurm-arg", "$(reboot)=1"], "--slurm-arg", "expected NAME=VALUE"),
        (["--setup-file", "/no/such"], "--setup-file", "cannot be read"),
        (["--no-container", "--container-mounts", "/a:/b"], "--container-mounts", "leave one out"),
        (["--container-runtime", "none", "--container-mounts", "/a:/b"], "--container-mounts", "--container-runtime none"),
        (["--container-runtime", "apptainer", "--no-container"], "--no-container", "leave one out"),
        (["--container-runtime", "apptainer", "-I", "/x/nemo.sqsh"], "--container-image", "apptainer build"),
        (["--container-runtime", "apptainer", "-I", "dockerd://nemo"], "--container-image", "docker://IMAGE"),
        (["--container-runtime", "apptainer", "-I", "/x/a\nb.sif"], "--container-image", "not printable"),
        (["--container-runtime", "apptainer", "-I", "nvcr.io/nvidia/nemo:26.04"], "--container-image", "hold no NeMo"),
        (["--container-runtime", "apptainer", "--container-mounts", "/a:/b:x-create=dir"], "--container-mounts", "ro and rw"),
        (["--container-runtime", "apptainer", "--container-env", "A B"], "--container-env", "name of a variable"),
        (["--container-runtime", "apptainer", "--output-dir", "/x/nemo_runs"], "--output-dir", "choose another folder"),
        (["--container-mounts", "a:b"], "--container-mounts", "absolute paths"),
        (["--output-dir", "/runs/x", "--container-mounts", "/o:/runs"], "--container-mounts", "mount /o elsewhere"),
        (["--max-restarts", "2"], "--max-restarts 2", "use --requeue"),
        (["--ssh", "a b"], "--ssh", "[USER@]HOST"),
        (["--ssh", "login", "--hf-token", "hf_x"], "--hf-token", "--setup-file"),
    ],
)  # fmt: skip
def test_a_broken_rule_names_flag_and_mend(flags: list[str], flag: str, mend: str) -> None:
    found = problems("--executor", "slurm", *flags)
    assert len(found) == 1, found
    assert found[0].startswith(flag)
    assert mend in found[0]


def test_slurm_flags_are_refused_on_this_machine() -> None:
    assert [text.split(":")[0] for text in problems("--qos", "high", "--requeue", "2")] == ["--qos", "--requeue"]
    assert [text.split(":")[0] for text in problems("--container-runtime", "apptainer")] == ["--container-runtime"]


def test_a_secret_in_the_setup_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "setup.sh"
    path.write_text("module load cuda\nexport WANDB_API_KEY=0123456789abcdef\n")
    (found,) = problems("--executor", "slurm", "--setup-file", str(path))
    assert "line 2 holds the value of WANDB_API_KEY" in found
    assert "0123456789" not in found
    path.write_text('module load cuda\nexport WANDB_API_KEY="$(cat ~/.wandb)"\n. ~/.secrets\n')
    assert problems("--executor", "slurm", "--setup-file", str(path)) == []


TOKEN, KEY = "hf_" + "aB3" * 8, "0123456789" * 4


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (f"export A=1 HF_TOKEN={TOKEN}", "value of HF_TOKEN"),
        (f"module load x; export HF_TOKEN={TOKEN}", "value of HF_TOKEN"),
        (f"declare -x HF_TOKEN={TOKEN}", "value of HF_TOKEN"),
        (f'if true; then export HF_TOKEN="{TOKEN}"; fi', "value of HF_TOKEN"),
        ("DB_PASSWORD='a b!c?d,e'", "value of DB_PASSWORD"),
        (f"wandb login {KEY}", "value of wandb login"),
        (f"wandb login --relogin --host https://wandb.example.org '{KEY}'", "value of wandb login"),
        ("huggingface-cli login --token abcdefgh12345678", "value of --token"),
        ("hf auth login --token=abcdefgh12345678", "value of token"),
        (f"curl -H 'Authorization: Bearer {TOKEN}' https://x", "a token or a password"),
        ("export https_proxy=http://user:pass@proxy:3128", "a token or a password"),
    ],
)
def test_a_secret_is_found_wherever_it_stands(line: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "setup.sh"
    path.write_text(f"set -e\n{line}\n")
    (found,) = problems("--executor", "slurm", "--setup-file", str(path))
    assert "line 2 holds " in found and what in found
    assert not any(secret in found for secret in (TOKEN, KEY, "abcdefgh", "pass@", "a b!c"))


def test_what_only_leads_to_a_secret_is_none(tmp_path: Path) -> None:
    path = tmp_path / "setup.sh"
    path.write_text("""
export HF_TOKEN_PATH=/home/me/secrets/token MAX_TOKENS=100000000 TOKENIZERS_PARALLELISM=falsehood
export HF_TOKEN=$HF_TOKEN; export HF_TOKEN="${HF_TOKEN:-}"; export HF_TOKEN=
export HF_TOKEN=$(cat /home/me/secrets/token) WANDB_API_KEY=`cat key_of_wandb` SECRET="$(</home/me/secret)"
wandb login; wandb login "$WANDB_API_KEY"; wandb login --host https://wandb.an-organisation-with-a-long-name.org
hf auth login --token "$HF_TOKEN"; huggingface-cli login --token $(cat ~/.token)
export https_proxy=http://proxy:3128 http_proxy=http://$USER:$PASSWORD@proxy:3128
git clone ssh://git@example.org/hf_tokenizers_and_models; python train_hf_tokenizers_on_everything.py
""")
    assert problems("--executor", "slurm", "--setup-file", str(path)) == []


@pytest.mark.slow
def test_an_abbreviation_is_no_way_round_what_is_ours() -> None:
    """sbatch takes every beginning of a name that is no other's; each of each option of ours is refused."""
    for name in (*slurm.OWNED, *slurm.OURS):
        for written in (name, name.replace("_", "-")):
            for length in range(1, len(written) + 1):
                if written[:length] not in slurm.OTHERS.split():
                    found = problems("--executor", "slurm", "--slurm-arg", f"{written[:length]}=2")
                    assert len(found) == 1, written[:length]
    for name in slurm.OTHERS.split():
        assert problems("--executor", "slurm", "--slurm-arg", f"{name}=2") == []
    (found,) = problems("--executor", "slurm", "--slurm-arg", "arr=0-2")
    assert found == "--slurm-arg arr=0-2: sbatch would take it for --array; write the name in full"
    assert problems("--executor", "slurm", "--slurm-arg", "plugin-option=2") == []  # of a site's own
    assert len(problems("--executor", "slurm", "--slurm-arg", "comment=a\n#SBATCH --array=0-2")) == 1


def test_time_limits_in_slurms_forms() -> None:
    forms = {"90": 5400, "1:30": 90, "2:00:00": 7200, "1-2": 93600, "1-0:30": 88200, "1-1:1:1": 90061}
    assert {form: slurm.seconds_of(form) for form in forms} == forms


@pytest.mark.parametrize(
    ("gres", "count"),
    [("gpu:8", 8), ("gpu:h100:4(S:0-1)", 4), ("gpu:a100:4,gpu:v100:2(IDX:0-1)", 6), ("(null)", 0), ("nic:4,gpu:2", 2)],
)
def test_gpus_of_a_node(gres: str, count: int) -> None:
    assert gpu_count(gres) == count


SCONTROL = (
    "JobId=12 JobName=one.train UserId=root(0) Priority=1 JobState=PENDING Reason=BeginTime Dependency=(null) Requeue=1"
    " Restarts=2 BatchFlag=1 ExitCode=0:0 SubmitTime=1767323045 Partition=batch NodeList=(null) NumNodes=2-2 Command=/x y=/z"
    " StdOut=/runs/one/attempts/a/sbatch_one.out\n"
)


def test_reading_scontrol_and_sacct() -> None:
    greeting = "Welcome | JobState=FINE\n"
    state = JobState(
        "PENDING", "BeginTime", 0, 2, "", "one.train", 0, 1767323045, "/runs/one/attempts/a/sbatch_one.out"
    )
    assert cluster._from_scontrol(greeting + SCONTROL) == state
    assert cluster._from_scontrol(greeting) is None
    row = "12|CANCELLED by 1000|0:15|n[1-2]|one.train|1000|1767323045|ci"
    state = JobState("CANCELLED", "", 143, 0, "n[1-2]", "one.train", 1000, 1767323045, "", "ci", 1000)
    assert cluster._from_sacct(f"{greeting}{row}\n", "12") == state
    assert cluster._from_sacct(f"{row}|3\n", "12") == dataclasses.replace(state, restarts=3)
    assert cluster._from_sacct("12|FAILED|75:0|n1|a|1|Unknown|ci\n", "12") == JobState(
        "FAILED", "", 75, 0, "n1", "a", 1, None, "", "ci"
    )
    assert cluster._from_sacct(greeting, "12") is None


def test_the_reason_of_an_error_is_its_last_telling_line() -> None:
    error = "sbatch: unrecognized option '--frob=2'\nTry \"sbatch --help\" for more information\n"
    assert Answer(1, "", error).reason == "unrecognized option '--frob=2'"
    assert Answer(1, "", "sbatch: error: Batch job submission failed: Invalid qos\n").reason.endswith("Invalid qos")


def test_a_cluster_that_cannot_be_asked_has_not_forgotten_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"scontrol": Answer(255, "", "ssh: connect to host login port 22: Connection refused\n")}
    monkeypatch.setattr(
        Cluster,
        "ask",
        lambda self, *words, **_: said.get(words[2] if words[0] == "env" else words[0], Answer(255, "", "")),
    )
    assert Cluster("login").job("7") == JobState("UNKNOWN", "connect to host login port 22: Connection refused")
    said["scontrol"] = Answer(1, "", "slurm_load_jobs error: Invalid job id specified\n")
    assert Cluster("login").job("7") is None


def test_a_missing_and_a_silent_command() -> None:
    assert Cluster().ask("no-such-command").code == 127
    assert "no answer" in Cluster().ask("sleep", "5", seconds=0.2).reason


def test_what_would_override_the_job_script_is_dropped() -> None:
    before = {"SBATCH_PARTITION": "x", "SLURM_JOB_ID": "1", "SLURM_CONF": "/c", "HF_TOKEN": "t", "SRUN_DEBUG": "1"}
    assert cluster.without_slurm(before) == {"SLURM_CONF": "/c", "HF_TOKEN": "t"}


def test_a_jobs_restarts_are_counted_by_what_its_script_left(tmp_path: Path) -> None:
    job = Job(attempt=tmp_path, job_id="1", experiment_id="x", host=None, submitted=0.0)
    assert job.restarts == 0
    for number in (0, 1, 10):
        (tmp_path / f"begun-{number}").touch()
    (tmp_path / "exit-10").write_text("75\n")
    assert (job.restarts, job.exit_code(10), job.exit_code(1)) == (10, 75, None)


@pytest.fixture
def ssh_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file that the real ssh reads in place of the user's."""
    ssh = shutil.which("ssh")
    if not ssh:
        pytest.skip("OpenSSH's client is not installed")
    path, wrapper = tmp_path / "config", tmp_path / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {path} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return path


def test_a_login_is_what_ssh_makes_of_it(ssh_config: Path) -> None:
    key = ssh_config.with_name("key")
    key.touch()
    ssh_config.write_text(f"Host far\n  HostName real.test\n  User bob\n  Port 2022\n  IdentityFile {key}\n")
    assert login.resolve("far") == login.Login("far", "bob", 2022, str(key))
    assert login.resolve("eve@real.test:23") == login.Login("real.test", "eve", 23, None)


def test_a_setting_that_rsync_would_lose_is_refused(ssh_config: Path) -> None:
    text = "Host far {}\n  ProxyJump gate\nHost far\n  HostName real.test\n"
    ssh_config.write_text(text.format(""))
    with pytest.raises(Refusal, match=r"--ssh far: ~/.ssh/config sets proxyjump for far .* write `Host far real.test`"):
        login.resolve("far")
    ssh_config.write_text(text.format("real.test"))
    assert login.resolve("far").name == "far"
