"""The processes that write a checkpoint's shards: without torch's CRC32 of each tensor, more of them than two, and each hashes its file.

With the sums one process writes 0.36 GiB/s into memory, without them 0.8 to 1.0 (torch 2.13, one core of an AMD EPYC). torch.load
looks at none of them, and the manifest has a hash of every file, which the training would else stop to compute.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find
from nemo_workflow.run_dir.checkpoints import note_hash

MOST = 8  # processes of a rank: 16.1 GiB took 24.7 s with two and 16.5 s with eight


def install() -> None:
    """Imports megatron-core."""
    replace(find("training.shard_writer:hashed_without_checksums"))


def hashed_without_checksums(write: Any) -> Any:
    """`FileSystemWriterAsync.write_preloaded_data`, which runs in a process of its own: nothing else is saved there."""

    @functools.wraps(write)
    def written(*values: Any, **named: Any) -> None:
        from torch import serialization

        if hasattr(serialization, "set_crc32_options"):
            serialization.set_crc32_options(False)
        write(*values, **named)
        # what went wrong in the write is told by its results; a file without a note is hashed by the rank
        with contextlib.suppress(OSError, KeyError):
            note_hash(Path(named["write_bucket"][0]))

    return staticmethod(written)


def processes(ranks: int) -> int:
    """Writers of each rank where `ranks` of them share the cores that this process may use; megatron-core's own are two."""
    return max(2, min(MOST, len(os.sched_getaffinity(0)) // ranks))
