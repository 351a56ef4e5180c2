"""containers/: what is put into NVIDIA's image, told from the files; no image can be had here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nemo_workflow.config import containers
from nemo_workflow.config.settings import Settings
from tests.repository.test_install import pins


@pytest.mark.parametrize(
    ("image", "path", "source"),
    [
        ("/images/nemo.sif", "/images/nemo.sif", None),
        ("nemo.sif", f"{Path.cwd()}/nemo.sif", None),
        ("./sandbox", f"{Path.cwd()}/sandbox", None),
        ("nvcr.io/nvidia/nemo:25.11", "/runs/.apptainer/nvcr.io_nvidia_nemo_25.11.sif", "docker://nvcr.io/nvidia/nemo:25.11"),
        ("nvcr.io#nvidia/nemo:25.11", "/runs/.apptainer/nvcr.io_nvidia_nemo_25.11.sif", "docker://nvcr.io/nvidia/nemo:25.11"),
        ("docker://ubuntu", "/runs/.apptainer/ubuntu.sif", "docker://ubuntu"),
        ("oras://ghcr.io/a/b:c", "/runs/.apptainer/ghcr.io_a_b_c.sif", "oras://ghcr.io/a/b:c"),
    ],
)  # fmt: skip
def test_what_apptainer_starts(image: str, path: str, source: str | None) -> None:
    settings = Settings(container_image=image, output_dir="/runs")
    assert containers.apptainer_image(settings) == containers.ApptainerImage(path, source)


def test_the_older_flag_means_the_same() -> None:
    """A run of an older version has no container_runtime in its plan."""
    words = {
        "pyxis": Settings(),
        "apptainer": Settings(container_runtime="apptainer"),
        "none": Settings(no_container=True),
    }
    assert {name: containers.runtime(settings) for name, settings in words.items()} == {name: name for name in words}
    assert containers.runtime(Settings(container_runtime="none")) == "none"


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
