"""Keeps megatron-core from compiling an extension at every import.

megatron-core 0.15 builds a CUDA memory pool for inference when it is imported. Where the build fails it is tried again
at each start, half a minute long, and a process that is killed meanwhile leaves a lock file behind at which every later
import waits for ever. Training does not use the pool.
"""

from __future__ import annotations

import sys
import types
from typing import Any

NAME = "megatron.core.inference.unified_memory"


def leave_out() -> None:
    """Put an empty stand-in at the module's name, which says that there is no such pool."""

    def create_unified_mempool() -> Any:
        raise RuntimeError("inference with unified memory is not available in a training run")

    module = types.ModuleType(NAME, "Stands in for megatron-core's module of this name.")
    module.has_unified_memory = False  # type: ignore[attr-defined]
    module.create_unified_mempool = create_unified_mempool  # type: ignore[attr-defined]
    sys.modules.setdefault(NAME, module)
