"""Have one module of a library run its own code in our way, whenever somebody imports it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Running = Callable[[Callable[[], None]], None]  # is given what runs the module's code, and must call it


def when_imported(name: str, running: Running) -> None:
    """In this process, from now on. Asked for twice, or where the module is not in the library, it does nothing."""
    if not any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, running))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module where Python's own finder does."""

    def __init__(self, name: str, running: Running):
        self.name, self.running = name, running

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.running)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, running: Running):
        self.loader, self.running = loader, running

    def exec_module(self, module: ModuleType) -> None:
        self.running(lambda: self.loader.exec_module(module))
