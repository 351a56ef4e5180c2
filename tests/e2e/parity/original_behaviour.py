"""What the unpatched libraries do, for the patches whose want shows without training. Run before `install`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock


def fork_stream() -> bool:
    """An unseeded stream is an error."""
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    try:
        with CudaRNGStatesTracker().fork("never seeded"):
            return False
    except Exception as error:  # noqa: BLE001 - Megatron raises plain Exception
        return "is not added" in str(error)


def set_rng_state() -> bool:
    """Each call is kept, with its stack, for a CUDA start that never comes."""
    import torch
    from megatron.core.tensor_parallel.random import _set_cuda_rng_state

    before = len(torch.cuda._queued_calls)
    _set_cuda_rng_state(torch.get_rng_state())
    kept = len(torch.cuda._queued_calls) > before
    del torch.cuda._queued_calls[before:]
    return kept


def forked_results_queue() -> bool:
    """The queue's process is spawned."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    with mock.patch.object(filesystem_async.mp, "get_context") as get_context:
        filesystem_async._get_write_results_queue()
    filesystem_async._results_queue = None
    return get_context.call_args.args == ("spawn",)


def nothing_to_gather() -> bool:
    """Without any timer the ranks are still asked for theirs."""
    from megatron.core.timers import Timers

    try:
        Timers(log_level=0, log_option="minmax").get_all_timers_string()
    except ValueError as error:  # no process group here
        return "process group" in str(error)
    return False


def disable_compile() -> bool:
    """jit_fuser compiles."""
    from megatron.core.jit import jit_fuser

    return jit_fuser(len) is not len


def split_sizes_as_numbers() -> bool:
    """Split sizes that are on the CPU already stay a tensor."""
    import torch
    from megatron.core.transformer.moe.moe_utils import maybe_move_tensor_to_cpu

    return torch.is_tensor(maybe_move_tensor_to_cpu(torch.tensor([1]), as_numpy=True))


def report() -> dict[str, Any]:
    """{patch: whether the library still behaves as the patch says, or the error that the check ended with}."""
    checks: list[Callable[[], bool]] = [
        fork_stream,
        set_rng_state,
        forked_results_queue,
        nothing_to_gather,
        disable_compile,
        split_sizes_as_numbers,
    ]
    found: dict[str, Any] = {}
    for check in checks:
        try:
            found[check.__name__] = check()
        except Exception as error:  # noqa: BLE001 - the test shows it
            found[check.__name__] = repr(error)
    return found
