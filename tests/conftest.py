"""How the tests are dealt out to pytest-xdist's processes (`make test`); without xdist they run in their own order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# a thread of OpenMP's that waits for another gives its core to the tests beside it, instead of spinning
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

HERE = Path(__file__).parent
TOGETHER = ("run", "slurm", "preprocess", "wikipedia", "plan")  # folders whose session fixtures are made once
# What takes longest goes first, so that no process is left with it at the end. The rest follows by name.
FIRST = ("run", "slurm", "pipeline/test_demo", "cpu_backend/test_parity", "conversion/test_conversion_layouts", "plan")


def group_of(path: Path) -> str:
    """What one process takes as a whole: a folder, or a file."""
    name = path.relative_to(HERE).with_suffix("").as_posix()
    folder = name.partition("/")[0]
    return folder if folder in TOGETHER else name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(group_of(item.path), len(places)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
