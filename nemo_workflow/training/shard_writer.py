"""The processes that write a checkpoint's shards: without torch's CRC32 of each tensor, more of them than two, and each hashes its file.

One that is killed, as the kernel does when memory runs out, fails the save; megatron-core would wait for it for ever.

With the sums one process writes 0.36 GiB/s into memory, without them 0.8 to 1.0 (torch 2.13, one core of an AMD EPYC). torch.load
looks at none of them, and the manifest has a hash of every file, which the training would else stop to compute.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find
from nemo_workflow.run_dir.checkpoints import note_hash

MOST = 8  # processes of a rank: 16.1 GiB took 24.7 s with two and 16.5 s with eight


def install() -> None:
    """Imports megatron-core."""
    replace(find("training.shard_writer:hashed_without_checksums"))
    replace(find("training.shard_writer:noticing_a_death"))


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


def noticing_a_death(original: Any) -> Any:
    """`FileSystemWriterAsync.write_preloaded_data_multiproc`, told by a pipe's end that a writer is gone."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    @functools.wraps(original)
    @filesystem_async._disable_gc()  # as the original: in a fork it would take GPU tensors apart
    def write(
        transform_list: Sequence[Any], use_msc: bool, rank: int, write_buckets: Sequence[Any], global_results_queue: Any
    ) -> None:
        more = {"use_msc": True} if use_msc else {}
        writers = [_Writer(transform_list, number, bucket, more) for number, bucket in enumerate(write_buckets)]
        results = {number: writer.result() for number, writer in enumerate(writers)}
        failed = next((result for result in results.values() if isinstance(result, Exception)), None)
        global_results_queue.put(failed or results)

    return staticmethod(write)


class _Writer:
    """A process that writes one shard: `bucket`, megatron-core's WriteBucket, begins with the file's path."""

    def __init__(self, transform_list: Sequence[Any], number: int, bucket: Any, more: dict[str, Any]):
        from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
        from torch import multiprocessing

        context = multiprocessing.get_context("fork")
        self._file = bucket[0]
        self._told, tell = context.Pipe(duplex=False)
        self._process = context.Process(
            target=FileSystemWriterAsync.write_preloaded_data,
            args=(transform_list, number),
            kwargs={
                "write_bucket": bucket, "results_queue": _Pipe(tell), "count_queue": _Uncounted(), "use_fsync": True, **more,
            },
        )  # fmt: skip
        self._process.start()
        tell.close()  # so that the writer's is the last one

    def result(self) -> list[Any] | Exception:
        """What was written, when it is; an exception where it was not."""
        try:
            _, result = self._told.recv()
        except EOFError:
            self._process.join()
            return RuntimeError(f"the process that wrote {self._file} {_ended(self._process.exitcode)}")
        self._process.join()
        return result


class _Pipe:
    """A writer's end of a pipe, as the queue that megatron-core's writer puts its result into."""

    def __init__(self, end: Any):
        self.put = end.send


class _Uncounted:
    """The queue by which megatron-core counts the writers that have ended."""

    def get(self) -> None:
        pass

    def task_done(self) -> None:
        pass


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}; see the rank's log"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (", as the kernel does when memory runs out" if name == "SIGKILL" else "")


def processes(ranks: int) -> int:
    """Writers of each rank where `ranks` of them share the cores that this process may use; megatron-core's own are two."""
    return max(2, min(MOST, len(os.sched_getaffinity(0)) // ranks))
