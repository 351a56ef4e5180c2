"""A shell whose python3 is older than ours: the commands go on in .venv, or say what is wanted, in words and not in a traceback."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow import REPOSITORY

# a Python that calls itself older; it reads its command line where an older one does
OLDER = """
import sys
sys.version_info = (3, 9, 18)
sys.path.insert(0, {folder!r})
import nemo_workflow
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "nemo_workflow").mkdir()
    shutil.copy(REPOSITORY / "nemo_workflow" / "__init__.py", tmp_path / "nemo_workflow")
    (tmp_path / "pretrain_llm.py").write_text(OLDER.format(folder=str(tmp_path)))
    return tmp_path


def called(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=checkout, capture_output=True, text=True, check=False)


def test_an_old_python_can_read_what_leaves_it() -> None:
    source = (REPOSITORY / "nemo_workflow" / "__init__.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))  # the oldest that ast knows
    assert "from __future__" not in source  # 3.6, of Ubuntu 18.04, has no annotations there


def test_without_an_environment_it_says_what_is_wanted(checkout: Path) -> None:
    done = called(checkout, "pretrain_llm.py", "--help")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: needs Python 3.11 or 3.12, and this is 3.")
    assert f"; type make install in {checkout}" in done.stderr


def test_with_one_it_goes_on_there(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "ours: $*"\n')
    python.chmod(0o755)
    assert called(checkout, "pretrain_llm.py", "-M", "a b").stdout == "ours: pretrain_llm.py -M a b\n"


def test_an_import_is_told_without_ending_the_program(checkout: Path) -> None:
    done = called(checkout, "-c", OLDER.format(folder=str(checkout)))
    assert done.returncode == 1
    assert "ImportError: nemo_workflow needs Python 3.11 or 3.12" in done.stderr


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9", "3.10"])
def test_a_real_one(checkout: Path, version: str) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no python{version} here")
    (checkout / "pretrain_llm.py").write_text("import nemo_workflow")
    words = [python, str(checkout / "pretrain_llm.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"this is {version}." in done.stderr, done
