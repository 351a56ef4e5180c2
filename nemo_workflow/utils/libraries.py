"""Which version of a library is here, also where pip knows none (NVIDIA's containers put NeMo on Python's path as plain files);
and importing large ones in less time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from nemo_workflow import REPOSITORY

PROJECT = "nemo-workflow"  # as pip calls it
SAID = ("nemo_toolkit", "megatron-core", "torch")  # what --version names beside it
# distribution -> its importable package, and the file in it that says the version, for those that may lack metadata
VERSION_FILES = {
    "nemo_toolkit": ("nemo", "package_info.py"),
    "megatron-core": ("megatron", "core/package_info.py"),
    "nemo_run": ("nemo_run", "package_info.py"),
    "torch": ("torch", "version.py"),
    "transformer-engine": ("transformer_engine", "VERSION.txt"),
}


def version(name: str) -> str | None:
    """The version of a distribution, by the files that would be imported, else by pip's metadata; None where it isn't here.

    Imports nothing of it, so it takes milliseconds and can be asked before a start.
    """
    package, file = VERSION_FILES.get(name, ("", ""))
    for folder in _folders(package) if package else ():
        found = _written(folder / file)
        if found:
            return found
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions_said() -> str:
    """What --version prints: this project's version, and those of Python and of the libraries that train, a line each."""
    here = {name: version(name) or "not installed" for name in SAID}
    rows = {PROJECT: _own(), "python": platform.python_version(), **here}
    return "\n".join(f"{name} {found}" for name, found in rows.items())


def _own() -> str:
    """The project's version as its files say it, else, after `pip install .`, pip."""
    project = REPOSITORY / "pyproject.toml"
    found = (
        re.search(r'^version = "(.+)"$', project.read_text(encoding="utf-8"), re.MULTILINE)
        if project.is_file()
        else None
    )
    return found[1] if found else version(PROJECT) or "unknown"


def importable(package: str) -> bool:
    """Whether a package can be found on Python's path, whatever pip says."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _folders(package: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _written(file: Path) -> str | None:
    """The version that a file spells out: `__version__ = "1.2"`, MAJOR, MINOR, PATCH and PRE_RELEASE, or the bare number."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    plain = re.search(r"""^__version__\s*=\s*["'](\d[^"']*)["']""", text, re.MULTILINE)
    if plain:
        return plain[1]
    parts = dict(re.findall(r"""^(MAJOR|MINOR|PATCH|PRE_RELEASE)\s*=\s*["']?([\w.]*)["']?""", text, re.MULTILINE))
    if {"MAJOR", "MINOR", "PATCH"} <= parts.keys():
        return f"{parts['MAJOR']}.{parts['MINOR']}.{parts['PATCH']}{parts.get('PRE_RELEASE', '')}"
    bare = re.fullmatch(r"\s*(\d+(?:\.\d+)+\S*)\s*", text)
    return bare[1] if bare else None


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """For a block of imports: pause Python's garbage collector, which else goes through the growing heap again and again.

    What is imported stays until the end, so later collections leave it out as well (`gc.freeze`). Objects that lie in a cycle
    and are dropped inside the block stay in memory too; where nothing was left to import, a process group of before would.
    """
    running, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if running:
            gc.enable()
