"""shellcheck finds nothing in any shell script of the repository, and nothing of ours in the job scripts for Slurm."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
GOLDEN = "tests/launch/slurm/golden/"
# beginnings of lines that nemo_run's template puts into a job script
NEMO_RUNS_OWN = ("nodes=(", "nodes_array=(", "srun --output ")


def scripts() -> list[str]:
    """Tracked files that a shell reads, by their first line or their ending."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found = []
    for name in listed.stdout.split("\0"):
        path = REPOSITORY / name
        if path.is_file() and path.suffix in ("", ".sh", ".bash"):
            with path.open("rb") as stream:
                first = stream.readline(80)
            if path.suffix or first.startswith((b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash")):
                found.append(name)
    return found


def complaints(*names: str | Path) -> list[dict]:
    done = subprocess.run(
        [SHELLCHECK, "--format=json", "--exclude=SC1091", *names], cwd=REPOSITORY, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_scripts_are_found() -> None:
    assert {"preprocess_data.sh", ".ci/run", ".ci/install_slurm"} < set(scripts())


def test_no_complaint_about_our_scripts() -> None:
    assert complaints(*[name for name in scripts() if not name.startswith(GOLDEN)]) == []


@pytest.mark.parametrize("name", [name for name in scripts() if name.startswith(GOLDEN)])
def test_no_complaint_about_our_lines_of_a_job_script(name: str) -> None:
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    ours = [one for one in complaints(name) if not lines[one["line"] - 1].startswith(NEMO_RUNS_OWN)]
    assert [(lines[one["line"] - 1], one["message"]) for one in ours] == []


def test_a_fault_is_found(tmp_path: Path) -> None:
    script = tmp_path / "bad.sh"
    script.write_text("#!/bin/bash\nrm -rf $1/*\n")
    assert {one["code"] for one in complaints(script)} >= {2086}
