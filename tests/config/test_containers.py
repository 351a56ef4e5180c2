"""containers/: what is put into NVIDIA's image, told from the files; no image can be had here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from nemo_workflow.config import containers
from tests.repository.test_install import pins

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "containers"


def test_the_packages_are_those_of_the_lock() -> None:
    lock = pins("constraints.txt")
    assert {
        name: version for name, version in pins("containers/packages.txt").items() if lock.get(name) != version
    } == {}


def test_both_files_name_a_supported_image_and_leave_its_packages_alone() -> None:
    for name in ("Dockerfile", "nemo-workflow.def"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        tag = re.search(r"^ARG TAG=(\S+)|^From: \S+:(\S+)", text, re.MULTILINE)
        assert tag is not None and (tag[1] or tag[2]) in containers.SUPPORTED
        installs = re.findall(r"pip install [^\n&]+", text)
        assert len(installs) == 2 and all("--no-deps" in line for line in installs)
        assert "PIP_CONSTRAINT" in text


def test_what_apptainer_copies_is_there_and_all_that_the_wheel_needs() -> None:
    text = (FOLDER / "nemo-workflow.def").read_text(encoding="utf-8")
    copied = re.findall(r"^    (\S+) /opt/nemo-workflow/\1$", text, re.MULTILINE)
    assert all((REPOSITORY / name).exists() for name in copied)
    assert {"nemo_workflow", "pyproject.toml", "requirements", "README.md", "LICENSE", "pretrain_llm.py"} <= set(copied)
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout
    assert not tracked or "containers/packages.txt" in tracked
