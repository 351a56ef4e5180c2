"""torch 2.13.0: run small functions as they are instead of compiling them."""

from __future__ import annotations

from typing import Any

from nemo_workflow.backends.patching import VALUE, PatchList

PATCHES = PatchList("torch")


@PATCHES("torch._dynamo.config:disable", signature=VALUE)
def disable_compile(original: Any) -> Any:
    """megatron-core's `jit_fuser` is torch.compile: on a CPU it needs a C++ compiler, starts a pool of compiling processes, and
    takes longer than a tiny model's whole training."""
    return True
