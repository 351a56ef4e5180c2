"""The environment is the one that requirements.txt describes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_platform, outdated


@pytest.mark.e2e
def test_what_is_installed_fits_together():
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True, capture_output=True)
