"""The command itself, run as a user runs it: lists, plans, refusals."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from nemo_workflow.run_dir.fingerprint import identity_of
from tests.places import Place
from tests.runs import fake_runs

pytestmark = pytest.mark.usefixtures("no_outside")

COMMAND = Path(__file__).parents[1] / "pretrain_llm.py"


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(COMMAND), *words], cwd=cwd, capture_output=True, text=True, env=os.environ | environment
    )


def test_a_refusal_is_short_and_writes_nothing(place: Place) -> None:
    done = run(*place.flags("--fp8", "-SP"), cwd=place.root)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "pretrain_llm.py: error: --fp8: not possible on a CPU; train on a GPU, or leave it out",
        "pretrain_llm.py: error: --sequence-parallel: needs --tensor-model-parallel-size 2 or more; leave it out",
    ]
    assert not (place.root / "out").exists()


@pytest.mark.parametrize(
    ("launcher", "sets"),
    [
        ("torchrun", {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1"}),
        ("srun", {"SLURM_STEP_NUM_TASKS": "8"}),
        ("mpirun", {"OMPI_COMM_WORLD_SIZE": "2"}),
    ],
)
def test_who_starts_the_ranks_by_another_launcher_is_told_that_they_are_started_here(
    launcher: str, sets: dict[str, str], place: Place
) -> None:
    done = run(*place.flags(), cwd=place.root, **sets)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"pretrain_llm.py: error: {launcher}: this command starts the ranks itself: type python"
    )
    assert not (place.root / "out").exists()
    alone = {name: "1" if value.isdigit() else value for name, value in sets.items()}  # srun --pty, for one
    assert run(*place.flags("--dry-run"), cwd=place.root, **alone).returncode == 0


def test_the_versions_are_printed_without_importing_what_they_are_of(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(COMMAND), "--version"], cwd=place.root, capture_output=True, text=True
    )
    assert done.returncode == 0
    said = dict(line.split(" ") for line in done.stdout.splitlines())
    project = tomllib.loads((COMMAND.parent / "pyproject.toml").read_text())["project"]
    libraries = {name: metadata.version(name) for name in ("nemo_toolkit", "megatron-core", "torch")}
    assert said == {project["name"]: project["version"], "python": platform.python_version(), **libraries}
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "nemo_workflow" in imported and not imported & {"torch", "nemo", "megatron", "lightning", "transformers"}


def test_a_plan_and_a_list_write_nothing(place: Place) -> None:
    done = run(*place.flags("--dry-run=json"), cwd=place.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["parameters"] == 5_245_184
    assert not (place.root / "out").exists()
    listed = run("--list-models", "tiny", cwd=place.root)
    assert listed.stdout.splitlines()[1].startswith("llama_tiny  5.25M")
    assert run("--list-models", "nothing-like-it", cwd=place.root).returncode == 2
    assert "--list-models" in run("--help", cwd=place.root).stdout


def test_a_run_that_is_further_says_how_far(place: Place) -> None:
    checkpoint = place.root / "out" / "pretraining" / "checkpoints" / "step_00000100"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text('{"version": 1, "files": {}, "step": 100}')
    done = run(*place.flags("--max-steps", "50"), cwd=place.root)
    assert done.returncode == 0, done.stderr
    said = "already trained to step 100; a larger --max-steps continues it, another --experiment starts from the beginning\n"
    assert said in done.stdout
    assert "note: " not in done.stderr  # no advice for a training that isn't made
    identity = json.loads(json.dumps(identity_of(place.plan("--max-steps", "50"))))
    (checkpoint / "manifest.json").write_text(
        json.dumps({"version": 1, "files": {}, "step": 100, "identity": identity | {"max-steps": 100}})
    )
    done = run(*place.flags("--max-steps", "50", "--seed", "7", "--seq-length", "64"), cwd=place.root)
    changed = [line.partition(": --")[2] for line in done.stderr.splitlines() if "changed since checkpoint" in line]
    assert (done.returncode, said in done.stdout) == (0, True), done.stderr
    assert changed == [f"seq-length ({identity['seq-length']} -> 64)", "seed (1234 -> 7)", "max-steps (100 -> 50)"]


# Ctrl-C while the last words of a training are found
AFTERWARDS = """
import os, signal, sys
import pretrain_llm
from nemo_workflow.config.plan import Plan
from nemo_workflow.runs import finished
finished.last_words = lambda plan: os.kill(os.getpid(), signal.SIGINT) or ()
with open(sys.argv[1]) as stream:
    plan = Plan.from_json(stream.read())
pretrain_llm._afterwards(plan, told=False)
"""


@pytest.mark.parametrize(("more", "said"), [({}, ""), ({"sample": "Once"}, ": the same command exports its model")])
def test_ctrl_c_after_the_training_says_that_it_is_done(more: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(fake_runs.make_plan(tmp_path / "run", **more).to_json())
    done = subprocess.run(
        [sys.executable, "-c", AFTERWARDS, str(tmp_path / "plan.json")],
        cwd=COMMAND.parent,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, f"stopped by Ctrl-C; the training is done{said}\n")


LAST_WORDS = """
import sys
from pathlib import Path
import pretrain_llm
from nemo_workflow.config.plan import Plan
from nemo_workflow.utils.errors import run_command
def main():
    pretrain_llm._afterwards(Plan.from_json(Path(sys.argv[1]).read_text()), told=False)
run_command(main)
"""


@pytest.mark.parametrize("errors", [subprocess.PIPE, subprocess.STDOUT], ids=["alone", "with stderr"])
def test_a_training_is_done_though_its_log_is_on_a_full_disk(errors: int, tmp_path: Path) -> None:
    plan = fake_runs.write_run(tmp_path / "my_run")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LAST_WORDS, plan.folder / "plan.json"], cwd=COMMAND.parent, stdout=full, stderr=errors,
            text=True, env=os.environ | {"PYTHONUNBUFFERED": ""}, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if errors == subprocess.PIPE:
        assert done.stderr == "note: the last of what was printed could not be written: No space left on device\n"
