"""What a rank writes into a checkpoint, in host memory once: the optimizer's state of all ranks is gathered when it is known who writes what.

For a fully reshardable checkpoint megatron-core 0.15.3 gives every rank the whole state on the host: each shard goes to the host, to
the GPU, is gathered there, goes back to the host, is joined there and copied for the writer, while the training waits (43 of the 50 s
of a save of 16 GiB), and each rank of a host holds 12 bytes for every parameter. Then each rank writes its part of it.

Here `get_parameter_state_dp_zero` gives tensors without storage, of which the plan of the save is made. When it stands, just before
the writers get it, all ranks gather the state piece by piece on the GPU, and each copies to the host what it writes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nemo_workflow.backends.patching import fits, replace
from nemo_workflow.backends.registry import find

KEYS = ("param", "exp_avg", "exp_avg_sq")
PIECE = 1 << 24  # numbers gathered at once: 64 MiB in fp32, and four such buffers at most on the GPU


def install() -> None:
    """Imports megatron-core. Each half needs the other, so both or none."""
    halves = [find("backends.optimizer_gather:without_storage"), find("backends.optimizer_gather:filled_first")]
    if all(map(fits, halves)):
        for half in halves:
            replace(half)


@dataclass
class Waiting:
    """One buffer of an optimizer whose state will be gathered: a tensor without storage for each key, laid out as the buffer."""

    optimizer: Any
    buffer: int
    tensors: dict[str, Any]


_waiting: list[Waiting] = []


def without_storage(gather: Any) -> Any:
    """`DistributedOptimizer.get_parameter_state_dp_zero` for a fully reshardable checkpoint; any other goes to the original.

    For a load it gives host memory, into which every number is read. The original fills 12 bytes for each parameter with zeros first.

    Its tensors have the padding between buckets, as the slices have that megatron-core takes of them; the original leaves it out,
    which moves every parameter behind such padding (with 3 or 6 ranks, say) out of its place.
    """

    @functools.wraps(gather)
    def gathered_later(
        optimizer: Any, use_gloo_comm: bool = True, empty_data: bool = False, return_on_all_ranks: bool = False
    ) -> Any:
        if use_gloo_comm or not return_on_all_ranks:
            return gather(optimizer, use_gloo_comm, empty_data, return_on_all_ranks)
        import torch

        place = "cpu" if empty_data else "meta"
        _waiting[:] = [one for one in _waiting if one.optimizer is not optimizer]  # left by a save that failed
        state: dict[Any, Any] = {"buckets_coalesced": True}
        for number, (ranges, buffer) in enumerate(zip(optimizer.gbuf_ranges, optimizer.buffers, strict=True)):
            tensors = {key: torch.empty(buffer.numel, dtype=torch.float32, device=place) for key in KEYS}
            if not empty_data:
                _waiting.append(Waiting(optimizer, number, tensors))
            state[number] = {kind: {**tensors, "numel_unpadded": buffer.numel_unpadded} for kind in ranges}
        return state

    return gathered_later


def filled_first(save: Any) -> Any:
    """`TorchDistSaveShardedStrategy.async_save`, which every save comes through once each rank's part is settled."""

    @functools.wraps(save)
    def filled(strategy: Any, sharded_state_dict: Any, checkpoint_dir: Any) -> Any:
        from megatron.core.dist_checkpointing.dict_utils import nested_values

        fill(nested_values(sharded_state_dict))
        return save(strategy, sharded_state_dict, checkpoint_dir)

    return filled


def fill(shards: Iterable[Any]) -> None:
    """Give every shard that this rank writes its numbers, in host memory. All ranks call it together.

    Weights go the same way: megatron-core lets go of its copies of them as soon as the writers are forked, which share the
    memory, and the next save may be made over it before they have ended. The writers' plan holds what is given here.

    Raises:
        RuntimeError: a shard was copied from a tensor without storage, so that its place can't be told.
    """
    import torch
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, is_main_replica

    wanted: dict[int, list[Part]] = {}
    for shard in shards:
        if not isinstance(shard, ShardedTensor) or shard.data is None or not is_main_replica(shard.replica_id):
            continue
        if shard.data.is_meta:
            wanted.setdefault(_storage(shard.data), []).append(Part(shard))
        elif shard.data.is_cuda:  # those in fp8 too, which copy_ turns into numbers of their nominal kind
            numbers = shard.data.detach()
            shard.data = _host_memory(numbers.numel(), numbers.dtype).view(numbers.shape)
            shard.data.copy_(numbers, non_blocking=True)
    waiting, _waiting[:] = list(_waiting), []
    for one in waiting:
        _gather(one, {key: wanted.pop(_storage(tensor), []) for key, tensor in one.tensors.items()})
    if wanted:
        keys = [part.shard.key for parts in wanted.values() for part in parts]
        raise RuntimeError(f"the optimizer's state can't be gathered: {keys[0]} is no view of it")
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()


def _storage(tensor: Any) -> int:
    """The same for a tensor without storage and all views of it."""
    return int(tensor.untyped_storage()._cdata)


class Part:
    """What a shard takes of a buffer, from `start` to `end`, in host memory from which a GPU can be read without a detour."""

    def __init__(self, shard: Any):
        view = shard.data
        reach = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
        self.shard, self.start = shard, view.storage_offset()
        self.end = self.start + (reach + 1 if view.numel() else 0)
        self.host = _host_memory(self.end - self.start, view.dtype)
        shard.data = self.host.as_strided(view.shape, view.stride())

    def take(self, numbers: Any, start: int) -> None:
        """Copy from `numbers`, which lie from `start` in the buffer, those that belong here."""
        low, high = max(start, self.start), min(start + len(numbers), self.end)
        if low < high:
            self.host[low - self.start : high - self.start].copy_(
                numbers[low - start : high - start], non_blocking=True
            )


def _host_memory(size: int, kind: Any) -> Any:
    """Pinned where a GPU copies into it: torch keeps such memory for the next save, which then needn't touch it first."""
    import torch

    if torch.cuda.is_available():
        try:
            return torch.empty(size, dtype=kind, pin_memory=True)
        except RuntimeError:  # the system gives no more of it
            pass
    return torch.empty(size, dtype=kind)


def _gather(one: Waiting, parts: dict[str, list[Part]]) -> None:
    """One buffer's state, by pieces of its buckets, of which each rank holds one stretch."""
    optimizer, buffer = one.optimizer, one.optimizer.buffers[one.buffer]
    ranks = optimizer.data_parallel_group.size()
    step = max(1, PIECE // ranks)
    for buckets in optimizer.gbuf_ranges[one.buffer].values():
        for bucket, ranges in zip(buffer.buckets, buckets, strict=True):
            size = bucket.grad_data.numel()
            here = {key: [part for part in found if part.end > bucket.offset and part.start < bucket.offset + size] for key, found in parts.items()}  # fmt: skip
            for low in range(0, size // ranks, step):
                high = min(low + step, size // ranks)
                own = _own(optimizer, ranges["param_map"], low, high, bucket.grad_data.device)
                for key in KEYS:
                    everyone = _of_all_ranks(own[key], optimizer.data_parallel_group)
                    for rank in range(ranks):
                        numbers = everyone[rank * (high - low) : (rank + 1) * (high - low)]
                        for part in here[key]:
                            part.take(numbers, bucket.offset + rank * (size // ranks) + low)


def _own(optimizer: Any, ranges: Any, low: int, high: int, device: Any) -> dict[str, Any]:
    """This rank's numbers from `low` to `high` of its stretch of a bucket; zeros where no parameter lies."""
    import torch

    own = {key: torch.zeros(high - low, dtype=torch.float32, device=device) for key in KEYS}
    for parameter, places in ranges.items():
        place = places["gbuf_local"]
        start, end = max(low, place.start), min(high, place.end)
        if start < end:
            state = optimizer._get_main_param_and_optimizer_states(parameter)
            for key in KEYS:
                own[key][start - low : end - low].copy_(state[key].detach()[start - place.start : end - place.start])
    return own


def _of_all_ranks(own: Any, group: Any) -> Any:
    import torch

    if group.size() == 1:
        return own
    everyone = torch.empty(len(own) * group.size(), dtype=own.dtype, device=own.device)
    torch.distributed.all_gather_into_tensor(everyone, own, group)
    return everyone
