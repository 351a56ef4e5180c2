"""Has transformers read the sources of its models once as it is imported, and not once more for each of its folders."""

from __future__ import annotations

import copy
import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find
from nemo_workflow.utils.libraries import version

NAME = "transformers.utils.import_utils"


def read_once() -> None:
    """For this process, from the moment that transformers is imported; nothing is done where it has been, or isn't there."""
    there = NAME in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not there and version("transformers") is not None:
        sys.meta_path.insert(0, _Finder())


def remembered(original: Any) -> Any:
    """What a folder of models holds, found once; each caller gets a copy of its own."""
    found: dict[Path, Any] = {}

    @functools.wraps(original)
    def structure(module_path: Any) -> Any:
        path = Path(module_path).resolve()
        folder = path.parent if path.is_file() else path
        if folder not in found:
            found[folder] = original(module_path)
        return copy.deepcopy(found[folder])

    return structure


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module where Python's own finder does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != NAME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Remembering(spec.loader)
        return spec


class _Remembering(importlib.abc.Loader):
    def __init__(self, loader: Any):
        self.loader = loader

    def exec_module(self, module: types.ModuleType) -> None:
        self.loader.exec_module(module)
        replace(find("backends.transformers_models:remembered"))
