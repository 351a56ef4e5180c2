"""`make`: which Python it takes, and what it says while pip installs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PIP = """\
Collecting torch==2.13.0
  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (29 kB)
  Downloading torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl (188.3 MB)
Collecting numpy
  Using cached numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.whl (18.3 MB)
Processing ./{wheel}
Installing collected packages: numpy, torch, local
"""


def interpreter(folder: Path, name: str, answer: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"python3.11": "exit 0", "python3.12": "exit 0", "python3": "exit 0"}, "python3.12"),
        ({"python3.11": "exit 0", "python3.12": "echo 'pyenv: python3.12: command not found' >&2; exit 127"}, "python3.11"),
        ({"python3.11": "exit 1", "python3": "exit 0"}, "python3"),  # Debian's without python3-venv
        ({}, None),
    ],
)  # fmt: skip
def test_make_takes_the_newest_python_that_works(there: dict[str, str], taken: str | None, tmp_path: Path) -> None:
    """Stand-ins answer as the real ones do when they are asked whether they can make an environment."""
    for name, answer in there.items():
        interpreter(tmp_path, name, answer)
    for tool in ("make", "bash", "sh", "test", "true"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    done = subprocess.run(
        ["make", *(["-n"] if taken else []), f"VENV={tmp_path / 'venv'}", "install"],
        cwd=REPOSITORY, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if taken:
        assert f'"{tmp_path / taken}" -m venv' in done.stdout
    else:
        assert done.returncode == 2 and "no Python 3.11 or 3.12 with venv found: install one" in done.stderr


def test_the_install_tells_packages_and_megabytes(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    (site / "pip-25.0.dist-info").mkdir(parents=True)
    wheel = tmp_path / "local-1.0-py3-none-any.whl"
    wheel.write_bytes(b"x" * 2_400_000)
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "tools" / "pip_progress.py", site],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    output, _ = process.communicate(PIP.format(wheel=wheel.name))
    assert output.splitlines()[-1] == "3 packages, 209 MB; installed 0 of 3"


@pytest.mark.slow
def test_an_install_on_a_terminal_shows_one_line_that_changes(tmp_path: Path) -> None:
    """What was said before the minute without a word of pip's is there while it lasts."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "tools" / "pip_progress.py", tmp_path],
        stdin=subprocess.PIPE, stdout=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    assert process.stdin
    process.stdin.write("Installing collected packages: numpy, torch\n")
    process.stdin.flush()
    seen = b""
    while b"installed 0 of 2" not in seen:  # pip has not ended: its output is still open
        seen += os.read(ours, 1000)
    (tmp_path / "numpy-1.dist-info").mkdir()
    while b"installed 1 of 2" not in seen:
        seen += os.read(ours, 1000)
    process.stdin.close()
    assert process.wait() == 0
    os.close(ours)


def test_the_headers_of_torchs_packages_are_found_from_any_folder(tmp_path: Path) -> None:
    """pip and nvcc are stand-ins: the packages of a GPU are gigabytes. A relative folder
    would not be found where pip compiles, and a toolkit may be nvcc alone, without cusparse.h. torch's packages lack crt/,
    so that the toolkit's headers come first; the nvcc in the path may be a script, whose folder is not the toolkit's."""
    packages = tmp_path / "env" / "lib" / "python3.12" / "site-packages" / "nvidia"
    headers = [packages / name / "include" for name in ("cudnn", "nccl", "cu13")]
    for folder in headers:
        folder.mkdir(parents=True)
    for name in ("Makefile", "tools", "requirements", "requirements-gpu.txt", "constraints-gpu.txt"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "env" / "bin").mkdir()
    interpreter(tmp_path / "bin", "nvcc", "echo '#$ _SPACE_= ' >&2; echo '#$ _HERE_=/opt/cuda-13.0/bin' >&2")
    interpreter(tmp_path / "bin", "g++", "exit 1")
    interpreter(tmp_path / "env" / "bin", "python", "cat")
    told = 'case "$*" in *--no-build-isolation*) echo "$CUDA_HOME:$CPLUS_INCLUDE_PATH" > told;; esac'
    interpreter(tmp_path / "env" / "bin", "pip", told)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    words = ["make", "install-gpu", "VENV=env", f"PYTHON={sys.executable}"]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_HOME"}
    environment |= {"PATH": path, "CPLUS_INCLUDE_PATH": "/own"}

    def told_to_pip(**more: str) -> list[str]:
        done = subprocess.run(words, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return (tmp_path / "told").read_text().strip().split(":")

    packaged = [*map(str, headers), "/own"]
    assert told_to_pip() == ["/opt/cuda-13.0", "/opt/cuda-13.0/include", *packaged]
    assert told_to_pip(CUDA_HOME="/mine") == ["/mine", "/mine/include", *packaged]
    interpreter(tmp_path / "bin", "nvcc", "exit 1")  # one that says nothing of itself
    assert told_to_pip() == ["", *packaged]


def test_help_names_every_target() -> None:
    said = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony and all(f"make {target}" in said for target in phony[1].split() if target != "install-dev")
