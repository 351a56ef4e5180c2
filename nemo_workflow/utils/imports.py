"""Importing large libraries in less time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """For a block of imports: pause Python's garbage collector, which else goes through the growing heap again and again.

    What is imported stays until the end, so later collections leave it out as well (`gc.freeze`). Objects that lie in a cycle
    and are dropped inside the block stay in memory too.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if running:
            gc.enable()
