"""Keeps megatron-core from compiling an extension at every import.

megatron-core 0.15 builds a CUDA memory pool for inference when it is imported, 0.16 when inference asks for it. Where the
build fails it is tried again at each start, half a minute long, and a process that is killed meanwhile leaves a lock file
behind at which every later import waits for ever. Training does not use the pool.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from nemo_workflow.backends.one_module import when_imported
from nemo_workflow.backends.patching import replaced
from nemo_workflow.backends.registry import find

NAME = "megatron.core.inference.unified_memory"


def leave_out() -> None:
    """Let the module be imported as the library has it, but for the build: megatron-core goes on as where that fails.

    megatron-core 0.14 doesn't have it.
    """
    when_imported(NAME, _without_build)


def no_build(original: Any) -> Any:
    """Refuses to compile, for torch's `load_inline`."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("inference with unified memory is not available in a training run")

    return refuse


def _without_build(run: Callable[[], None]) -> None:
    """With torch's `load_inline` replaced, which the module keeps under that name."""
    with replaced(find("backends.memory_pool:no_build")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
