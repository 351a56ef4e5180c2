"""The environment is the one that requirements.txt describes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def pins(name: str) -> dict[str, str]:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    return {normal(m[1]): m[2] for m in re.finditer(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;#]+)", text, re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_in_the_lock():
    lock = pins("constraints.txt")
    assert {name: version for name, version in pins("requirements.txt").items() if lock.get(name) != version} == {}


def test_what_is_installed_is_what_is_locked():
    """The lock is whole: nothing that the requirements pull in is missing from it or has another version."""
    # asked of a process of its own: setuptools, once imported, puts older copies of some packages on the path
    told = subprocess.run([sys.executable, "-m", "pip", "inspect"], capture_output=True, check=True)
    installed = {normal(one["metadata"]["name"]): one["metadata"] for one in json.loads(told.stdout)["installed"]}
    lock, wanted, seen, wrong = pins("constraints.txt"), list(pins("requirements.txt")), set(), {}
    while wanted:
        name = wanted.pop()
        if name in seen or name not in installed:  # not installed: optional, or for another platform
            continue
        seen.add(name)
        version = installed[name]["version"].split("+")[0]
        if lock.get(name) != version:
            wrong[name] = (lock.get(name), version)
        for requirement in installed[name].get("requires_dist", []):
            if "extra ==" not in requirement:
                wanted.append(normal(re.match(r"[\w.-]+", requirement)[0]))
    assert wrong == {}


@pytest.mark.e2e
def test_what_is_installed_fits_together():
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True, capture_output=True)
