"""Keeps megatron-core from compiling an extension at every import.

megatron-core 0.15 builds a CUDA memory pool for inference when it is imported, 0.16 when inference asks for it. Where the
build fails it is tried again at each start, half a minute long, and a process that is killed meanwhile leaves a lock file
behind at which every later import waits for ever. Training does not use the pool.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from nemo_workflow.backends.patching import replaced
from nemo_workflow.backends.registry import find

NAME = "megatron.core.inference.unified_memory"


def leave_out() -> None:
    """Let the module be imported as the library has it, but for the build: megatron-core goes on as where that fails."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def no_build(original: Any) -> Any:
    """Refuses to compile, for torch's `load_inline`."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("inference with unified memory is not available in a training run")

    return refuse


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module where Python's own finder does; megatron-core 0.14 doesn't have it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != NAME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithoutBuild(spec.loader)
        return spec


class _WithoutBuild(importlib.abc.Loader):
    def __init__(self, loader: Any):
        self.loader = loader

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module's own code with torch's `load_inline` replaced, which it keeps under that name."""
        with replaced(find("backends.memory_pool:no_build")), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.loader.exec_module(module)
