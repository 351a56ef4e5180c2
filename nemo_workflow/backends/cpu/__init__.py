"""Let Megatron train and convert on a machine without a GPU.

NeMo and megatron-core take a CUDA device and Transformer Engine for granted in many small places. `install` replaces those
places by what they mean on a CPU. Each patch is one function in the file named after the library that it changes, and one row of
registry_cpu.py with its reason. Every patch is written for one version, and `install` refuses to touch another.

Call `install` once in every worker, before a recipe is built and before `torch.distributed` is started, and only with
--accelerator cpu. It needs no process group, so a conversion can call it too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from nemo_workflow.backends import memory_pool, one_logger, vector_math
from nemo_workflow.backends.patching import apply, check, fitting, problems_of, replaced
from nemo_workflow.backends.registry import find
from nemo_workflow.backends.registry_cpu import CPU_PATCHES

_installed = False


def install(strict: bool = True) -> None:
    """Apply every patch, all or none; a second call does nothing. Takes as long as importing NeMo (10-15 s of CPU).

    `strict=False` is for a caller that proves what it computes, as a conversion does: any version will do, and a patch that
    does not fit is left out.

    Raises:
        LibraryChanged: a library is not the version that the patches were written for, one of the patched functions has
            gone or takes other arguments, or Transformer Engine or Apex is installed. Nothing has been patched then.
    """
    global _installed
    if _installed:
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        ""  # a library that finds a GPU would use it beside what the patches send to the CPU
    )
    one_logger.leave_out()
    memory_pool.leave_out()  # with a CUDA build of torch its compilation fails here, and megatron-core's import with it
    with compiler_left_out():
        if strict:
            check(CPU_PATCHES)
        patches = CPU_PATCHES if strict else fitting(CPU_PATCHES)
    apply(patches)
    vector_math.settle()
    _installed = True


@contextlib.contextmanager
def compiler_left_out() -> Iterator[None]:
    """For a block that imports megatron-core, which compiles functions meanwhile: leave them as they are, if that patch fits."""
    row = find("backends.cpu.torch:disable_compile")
    with contextlib.nullcontext() if problems_of(row) else replaced(row):
        yield
