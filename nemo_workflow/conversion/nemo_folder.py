"""NeMo 2 folders: weights/ (a torch distributed checkpoint as Megatron writes it) and context/ (config and tokenizer).

A checkpoint of any TP/PP/VPP/DP layout is one set of logical tensors, each in chunks with offsets; reading them by name
and layer is therefore independent of the layout. Layers are stacked in a leading dimension, unless they differ.
Nothing here unpickles freely: .metadata goes through an allow-list, tensors through torch.load(weights_only=True).
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import EnumType
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint import FileSystemWriter, SavePlan, SavePlanner
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from nemo_workflow.conversion.boxes import Box
from nemo_workflow.conversion.buffers import mapped
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.safe_pickle import ENUMS, GETATTR, NAMES

PREFIX = "module."
FILE = "__0_0.distcp"  # as torch calls the first file of the first rank

# what a .metadata file of torch or Megatron is made of: plain data, of the names that training allows
DATA = (
    "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.planner",
    "torch.distributed.checkpoint.filesystem", "torch.serialization", "collections", "pathlib", "builtins",
)  # fmt: skip
ALLOWED_NAMES = {("torch", "Size")} | {(module, name) for module in DATA for name in NAMES[module]}


class _Inert:
    """Stands for Megatron's save plans in .metadata, which reading needs nothing of."""


class _MegatronMetadata(Metadata):
    """Stands for Megatron's MCoreMetadata, so that reading needs no Megatron."""


def _enum_member(owner: Any, name: Any) -> Any:
    """Stands for getattr, by which Python before 3.11.4 pickles a member of an enum."""
    key = (getattr(owner, "__module__", ""), getattr(owner, "__qualname__", ""))
    if not isinstance(owner, EnumType) or type(name) is not str or name not in ENUMS.get(key, ()):
        raise pickle.UnpicklingError("builtins.getattr for more than the member of an enum has no place in a .metadata")
    return owner[name]


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("megatron.core.dist_checkpointing."):
            return _MegatronMetadata if name == "MCoreMetadata" else _Inert
        if (module, name) == GETATTR:
            return _enum_member
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or (module, name) in ALLOWED_NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint's .metadata")


def _read_metadata(path: Path) -> Metadata:
    try:
        with path.open("rb") as stream:
            found = _MetadataUnpickler(stream).load()
    except Exception as error:  # what is no pickle of ours can raise anything
        raise Refusal(f"{path}: can't be read ({error}): save or copy the checkpoint again") from error
    if not isinstance(found, Metadata):
        raise Refusal(f"{path}: holds a {type(found).__name__}, not a checkpoint's index: save or copy it again")
    return found


class _Slice(io.RawIOBase):
    """`length` bytes of a file from `offset` on, as a file of its own."""

    def __init__(self, path: Path, offset: int, length: int):
        self._file = path.open("rb", buffering=0)
        self._offset, self._length, self._at = offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(view) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class NemoReader:
    """The model's tensors in a weights/ folder, one at a time."""

    def __init__(self, weights: Path):
        self.weights = weights
        try:
            self._index(_read_metadata(weights / ".metadata"))
        except (AttributeError, TypeError, ValueError) as error:
            raise Refusal(
                f"{weights}/.metadata: not the index of a checkpoint ({error}): save or copy it again"
            ) from error

    def _index(self, metadata: Metadata) -> None:
        weights = self.weights
        self.tensors: dict[str, TensorStorageMetadata] = {
            key.removeprefix(PREFIX): value
            for key, value in metadata.state_dict_metadata.items()
            if isinstance(value, TensorStorageMetadata) and key.startswith(PREFIX)
        }
        self.objects = [
            key.removeprefix(PREFIX)
            for key, value in metadata.state_dict_metadata.items()
            if isinstance(value, BytesStorageMetadata) and key.startswith(PREFIX)
        ]
        self._storage = {
            (index.fqn.removeprefix(PREFIX), tuple(index.offset)): info
            for index, info in metadata.storage_data.items()
            if index.offset is not None
        }
        unplaced = [
            name
            for name, tensor in self.tensors.items()
            if any((name, tuple(chunk.offsets)) not in self._storage for chunk in tensor.chunks)
        ]
        if unplaced:
            raise Refusal(f"{weights}/.metadata: doesn't say where {unplaced[0]} lies: the checkpoint is not whole")
        lost = sorted({i.relative_path for i in self._storage.values() if not (weights / i.relative_path).is_file()})
        if lost:
            raise Refusal(f"{weights}: {lost[0]} is named by .metadata and missing: the checkpoint is not whole")
        short = [
            info.relative_path
            for info in self._storage.values()
            if info.offset + info.length > (weights / info.relative_path).stat().st_size
        ]
        if short:
            raise Refusal(f"{weights}/{short[0]}: is truncated: the checkpoint is not whole")

    def locate(
        self, name: str, layer: int | None = None, expert: int | None = None
    ) -> tuple[str, tuple[int, ...]] | None:
        """(checkpoint key, leading indices) of a tensor whose name may hold {l} and {e}; None if it isn't there."""
        experts = () if expert is None else (expert,)
        plain = name.replace(".{e}", "")
        stacked = plain.replace(".{l}", "")
        if stacked in self.tensors and layer is not None:
            return stacked, (layer, *experts)
        own = plain.replace("{l}", str(layer))
        return (own, experts) if own in self.tensors else None

    def meta(self, key: str, lead: tuple[int, ...] = ()) -> torch.Tensor:
        """A tensor without storage of the shape and dtype of `key[lead]`."""
        info = self.tensors[key]
        return torch.empty(info.size[len(lead) :], dtype=info.properties.dtype, device="meta")

    def read(self, key: str, lead: tuple[int, ...] = ()) -> torch.Tensor:
        """`key[lead]`, put together from its chunks; one that is whole in its file is mapped, not copied."""
        info = self.tensors[key]
        shape = tuple(info.size[len(lead) :])
        whole: torch.Tensor | None = None
        filled = 0
        for chunk in info.chunks:
            inside = all(o <= at < o + s for at, o, s in zip(lead, chunk.offsets, chunk.sizes, strict=False))
            if not inside:
                continue
            part = self._load(key, tuple(chunk.offsets)).reshape(tuple(chunk.sizes))
            for at, offset in zip(lead, chunk.offsets, strict=False):
                part = part[at - offset]
            offsets = chunk.offsets[len(lead) :]
            if tuple(part.shape) == shape:
                return part
            if whole is None:
                whole = torch.empty(shape, dtype=info.properties.dtype)
            whole[tuple(slice(o, o + s) for o, s in zip(offsets, part.shape, strict=True))] = part
            filled += part.numel()
        if whole is None or filled != whole.numel():
            raise Refusal(f"{self.weights}: {key}{list(lead)} is not whole in this checkpoint")
        return whole

    def pieces(self, key: str) -> list[Box]:
        """The pieces of a tensor, as they were written."""
        return sorted(Box(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in self.tensors[key].chunks)

    def read_box(self, key: str, piece: Box, box: Box) -> torch.Tensor:
        """The part `box` of a piece, both in the tensor's own numbering: of the file no more is mapped than from its first number to its last."""
        path, begin, shell = self._found(key, piece.offsets)
        if not shell.is_contiguous():
            whole = self._load(key, piece.offsets).reshape(piece.shape)
            return whole[box.within(piece)]
        shell = shell.view(piece.shape)[box.within(piece)]
        begin += shell.storage_offset() * shell.itemsize
        last = sum((size - 1) * stride for size, stride in zip(shell.shape, shell.stride(), strict=True))
        flat = mapped(path, begin, (last + 1) * shell.itemsize).view(shell.dtype)
        return flat.as_strided(shell.shape, shell.stride())

    def _load(self, key: str, offsets: tuple[int, ...]) -> torch.Tensor:
        path, begin, shell = self._found(key, offsets)
        flat = mapped(path, begin, shell.untyped_storage().nbytes()).view(shell.dtype)
        return flat.as_strided(shell.shape, shell.stride(), shell.storage_offset())

    def _found(self, key: str, offsets: tuple[int, ...]) -> tuple[Path, int, torch.Tensor]:
        """The file of a piece, the place in it where its numbers begin, and a tensor without any that says how they lie there."""
        info = self._storage[key, offsets]
        path = self.weights / info.relative_path
        with _Slice(path, info.offset, info.length) as stream:
            shell: torch.Tensor = torch.load(stream, map_location="meta", weights_only=True)
        begin = shell.untyped_storage()._checkpoint_offset  # type: ignore[attr-defined]  # torch's notes on serialization
        return path, info.offset + begin, shell


@dataclass(frozen=True)
class Chunk:
    """A piece of a logical tensor to be written; `make()` gives it when its turn comes."""

    key: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _StreamingPlanner(SavePlanner):
    """Hands torch's checkpoint writer one tensor at a time, made when the writer asks for it."""

    def __init__(self, chunks: list[Chunk], empty_objects: list[str], on_bytes: Callable[[int], None]):
        self.chunks = {(c.key, c.offsets): c for c in chunks}
        self.objects = empty_objects
        self.on_bytes = on_bytes
        self._lock = threading.Lock()

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        pass

    def create_local_plan(self) -> SavePlan:
        items = [
            WriteItem(
                index=MetadataIndex(PREFIX + c.key, torch.Size(c.offsets)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.shape)),
                    properties=TensorProperties(dtype=c.dtype),
                    size=torch.Size(c.global_shape),
                ),
            )
            for c in self.chunks.values()
        ]
        items += [WriteItem(index=MetadataIndex(name), type=WriteItemType.BYTE_IO) for name in self.objects]
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        entries: dict[str, Any] = {name: BytesStorageMetadata() for name in self.objects}
        for c in self.chunks.values():
            entry = entries.setdefault(
                PREFIX + c.key, TensorStorageMetadata(TensorProperties(dtype=c.dtype), torch.Size(c.global_shape), [])
            )
            entry.chunks.append(ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.shape)))
        return all_plans, Metadata(state_dict_metadata=entries)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            stream = io.BytesIO()
            torch.save([None], stream)  # what Megatron writes for an empty extra state
            return stream
        chunk = self.chunks[write_item.index.fqn.removeprefix(PREFIX), tuple(write_item.index.offset or ())]
        tensor = chunk.make()
        if tensor.dtype != chunk.dtype:
            raise AssertionError(f"{chunk.key}: {tensor.dtype} came where {chunk.dtype} was planned")
        with self._lock:
            self.on_bytes(tensor.nbytes)
        tensor = tensor.reshape(chunk.shape).contiguous()
        # torch.save writes a view's whole storage
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


class _Writer(FileSystemWriter):
    """torch's, with one tensor in memory at a time: its own keeps the last piece of each until the file ends (torch 2.13)."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        objects = [item for item in plan.items if item.type == WriteItemType.BYTE_IO]
        tensors = [item for item in plan.items if item.type != WriteItemType.BYTE_IO]
        written = []
        with (Path(self.path) / FILE).open("wb") as stream:
            for item in objects + tensors:
                begin = stream.tell()
                _put(planner.resolve_data(item), stream)
                length = stream.tell() - begin
                written.append(WriteResult(item.index, length, _StorageInfo(FILE, begin, length)))
            stream.flush()
            os.fsync(stream.fileno())
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done


def _put(data: torch.Tensor | io.BytesIO, stream: BinaryIO) -> None:
    if isinstance(data, io.BytesIO):
        stream.write(data.getbuffer())
    else:
        torch.save(data, stream)


def write_weights(
    weights: Path, chunks: list[Chunk], empty_objects: list[str], on_bytes: Callable[[int], None] = lambda n: None
) -> None:
    """Write a weights/ folder that Megatron's dist_checkpointing loads.

    `empty_objects` are the names of extra states that Transformer Engine layers ask for; they hold nothing.
    """
    weights.mkdir(parents=True)
    planner = _StreamingPlanner(chunks, [PREFIX + name for name in empty_objects], on_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "torch.distributed is disabled": it is meant to be
        try:
            dcp_save({}, storage_writer=_Writer(weights), planner=planner, no_dist=True)
        except CheckpointException as error:  # torch wraps whatever happened in a BaseException of its own
            raise _cause(error) from error
    common = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {},
        "optimizer_states": {},
        "lr_schedulers": [],
        "content_metadata": {
            "singleton_local_shards": False,
            "chained_optim_avoid_prefix": True,
            "distrib_optim_sharding_type": "dp_reshardable",
        },
    }
    torch.save(common, weights / "common.pt")
    kind = {
        "sharded_backend": "torch_dist",
        "sharded_backend_version": 1,
        "common_backend": "torch",
        "common_backend_version": 1,
    }
    (weights / "metadata.json").write_text(json.dumps(kind))


def _cause(error: CheckpointException) -> BaseException:
    """What a checkpoint's writer stumbled over. A full disk reaches it as a wrong position in torch's zip file."""
    inner = next(iter(error.failures.values()))[0]
    chain: BaseException | None = inner
    while chain is not None:
        if isinstance(chain, OSError) or "unexpected pos" in str(chain):
            code = chain.errno if isinstance(chain, OSError) else errno.ENOSPC
            return OSError(code, os.strerror(code or errno.EIO))
        chain = chain.__context__
    return inner


# modules that may ask for an extra state when a checkpoint is loaded: Megatron's own layers, Transformer Engine's, its norms
_LINEARS = ("linear_fc1", "linear_fc2")
_WITH_STATE = (
    "input_layernorm", "pre_mlp_layernorm", *(f"mlp.{name}" for name in _LINEARS),
    *(f"mlp.shared_experts.{name}" for name in _LINEARS),
    *(f"self_attention.{name}" for name in (
        "linear_qkv", "linear_proj", "core_attention", "q_layernorm", "k_layernorm", "kv_layernorm", "linear_q_proj",
        "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj", "linear_proj.post_layernorm",
    )),
    "mlp.linear_fc2.post_layernorm",
)  # fmt: skip


def empty_states(layers: int, experts: int, stacked: bool) -> Iterator[str]:
    """Names of all extra states that a loader may ask for. One that nobody asks for does no harm; a missing one is an error."""
    yield "decoder.final_layernorm._extra_state/shard_0_1"
    for layer in range(layers):
        prefix, at, of = ("decoder.layers", [layer], [layers]) if stacked else (f"decoder.layers.{layer}", [], [])
        for module in _WITH_STATE:
            yield f"{prefix}.{module}._extra_state/{_shard(at or [0], of or [1])}"
        for expert in range(experts):
            for name in _LINEARS:
                shard = _shard([*at, expert], [*of, experts])
                yield f"{prefix}.mlp.experts.experts.{name}._extra_state/{shard}"


def _shard(at: list[int], of: list[int]) -> str:
    return f"shard_{'.'.join(map(str, at))}_{'.'.join(map(str, of))}"
