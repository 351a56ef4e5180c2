"""Two processes of pytest-xdist: a folder with session fixtures is one process's as a whole, the rest is dealt out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ("tests/config/test_synonyms.py", "tests/config/test_warnings.py", "tests/utils/test_files.py")


def test_a_folder_stays_together() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", *FILES]
    done = subprocess.run(command, cwd=REPOSITORY, env=clean, capture_output=True, text=True, check=True)
    found = set(re.findall(r"^\[(gw\d)\].* PASSED (\S+?)::", done.stdout, re.MULTILINE))
    by_file = {file: process for process, file in found}
    assert len(found) == len(FILES) and set(by_file) == set(FILES)
    synonyms, warnings, files = (by_file[file] for file in FILES)
    assert synonyms == warnings != files
