"""The environment is the one that requirements.txt describes."""

import subprocess
import sys

import pytest


@pytest.mark.e2e
def test_what_is_installed_fits_together():
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True, capture_output=True)
