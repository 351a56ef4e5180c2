"""Hugging Face folders: what they hold (read without torch), tensors one at a time, and a writer that streams.

The safetensors library writes a shard only from memory, all of it at once; the format is a JSON header and raw bytes
(https://huggingface.co/docs/safetensors), so the writer here lays down the header first and each tensor as it comes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from nemo_workflow.models.other_weights import unnamed_shards, what_is_there
from nemo_workflow.models.tokenizer_files import check_no_pointer
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPE_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1}
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SAFETENSORS_NAMES = {name: short for short, name in TORCH_NAMES.items()}
LARGEST_HEADER = 100_000_000  # bytes; the safetensors library reads no larger one
SHARD_BYTES = 5_000_000_000  # what transformers' save_pretrained takes


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. `dtype` is safetensors' short name; `begin` counts from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a Refusal that names the file."""
    if not path.is_file():
        raise Refusal(f"{path}: is missing, or not a regular file")
    check_no_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(f"{path}: can't be read as JSON ({error}); download or save the model again") from error
    if not isinstance(value, dict):
        raise Refusal(f"{path}: a JSON object is expected")
    return value


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one .safetensors file; raises Refusal for a header that isn't whole, or doesn't describe the file."""
    check_no_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= min(size - 8, LARGEST_HEADER):
            raise Refusal(f"{path}: is not a whole safetensors file (header truncated): download or copy it again")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{path}: is not a safetensors file (its header is not JSON)") from error
    if not isinstance(header, dict):
        raise Refusal(f"{path}: is not a safetensors file (its header is not a JSON object)")
    header.pop("__metadata__", None)
    found = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in header.items()}
    end = max((info.begin + info.nbytes for info in found.values()), default=0)
    if end > size:
        raise Refusal(f"{path}: is truncated, {counted(end - size, 'byte')} missing: download or copy it again")
    return found


def _tensor_info(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    """A header's entry; `start` is where the file's data begin. Raises Refusal for one that contradicts itself."""
    wrong = Refusal(f"{path}: its header describes {name} wrongly ({str(entry)[:100]}): download or save it again")
    if not isinstance(entry, dict):
        raise wrong
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(kind, str) and _counts(shape) and _counts(offsets) and len(offsets) == 2):
        raise wrong
    begin, end = offsets
    width = DTYPE_BYTES.get(kind)  # a type that we don't know is refused by its name later
    if end < begin or (width is not None and end - begin != width * math.prod(shape)):
        raise wrong
    return TensorInfo(path, kind, tuple(shape), start + begin, end - begin)


def _counts(value: Any) -> TypeGuard[list[int]]:
    """Whether a JSON value is a list of numbers that count something."""
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def list_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a Hugging Face folder, by name.

    Refused: a missing or truncated shard, an index that names what isn't there, two sets of weights in one folder.
    """
    index, whole = folder / INDEX, folder / SINGLE
    weight_map = _weight_map(index) if index.exists() else {}
    files = sorted(set(weight_map.values()))
    lost = [name for name in files if not _is_file(folder / name)]
    if whole.exists() and (not files or len(lost) == len(files)):
        # saved whole into the folder of a model in shards: the shards are gone, the index stayed; transformers reads this one
        weight_map, files, lost = {}, [SINGLE], []
    elif whole.exists() and files != [SINGLE]:
        raise Refusal(
            f"{folder}: has two sets of weights, {SINGLE} and the shards of {INDEX}; transformers reads the first alone."
            f" Move the one that is out of date out of the folder: {SINGLE}, or {INDEX} with its shards"
        )
    elif not index.exists():
        raise Refusal(f"{folder}: has no {SINGLE} and no {INDEX}{what_is_there(folder)}")
    elif not files:
        raise Refusal(f"{index}: names no tensors: download or save the model again")
    problems = [
        f"{folder}: shard {name} is named by {INDEX} and missing: download or save the model again" for name in lost
    ]
    problems += [
        f"{folder}: shard {name} is there and not named by {INDEX}: download or save the model again"
        for name in unnamed_shards(folder, files)
    ]
    if problems:
        raise Refusal(problems)
    tensors: dict[str, TensorInfo] = {}
    for file_name in files:
        for name, info in read_header(folder / file_name).items():
            # where two shards hold a tensor the index decides; where one does, that one, as transformers reads it
            if name not in tensors or weight_map.get(name) == file_name:
                tensors[name] = info
    unfound = sorted(set(weight_map) - set(tensors))
    if unfound:
        raise Refusal(f"{index}: names {counted(len(unfound), 'tensor')} that no shard holds, e.g. {unfound[0]}")
    if not tensors:
        raise Refusal(f"{folder / files[0]}: holds no tensors: download or save the model again")
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """An index's weight_map: tensor -> file, which may lie in a folder below the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) and name for name in weight_map.values()):
        raise Refusal(f"{index}: its weight_map is not a map of tensors to files: download or save the model again")
    out = sorted({name for name in weight_map.values() if Path(name).is_absolute() or ".." in Path(name).parts})
    if out:
        raise Refusal([f"{index}: shard name {name!r} leaves the folder" for name in out])
    return weight_map


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no disk takes
        return False


class HFReader:
    """Reads tensors one at a time: each maps its own part of a shard, for as long as it lives."""

    def __init__(self, tensors: dict[str, TensorInfo]):
        self.tensors = tensors

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name`, in the file's dtype; not to be written to."""
        import torch

        from nemo_workflow.conversion.buffers import mapped

        info = self.tensors[name]
        flat = mapped(info.file, info.begin, info.nbytes)
        return flat.view(getattr(torch, TORCH_NAMES[info.dtype])).reshape(info.shape)

    def meta(self, name: str) -> torch.Tensor:
        """A tensor without storage of the same shape and dtype."""
        import torch

        info = self.tensors[name]
        return torch.empty(info.shape, dtype=getattr(torch, TORCH_NAMES[info.dtype]), device="meta")


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: torch dtype name and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        count = DTYPE_BYTES[SAFETENSORS_NAMES[self.dtype]]
        for size in self.shape:
            count *= size
        return count


def shards(planned: list[Planned], limit: int = SHARD_BYTES) -> list[list[Planned]]:
    """Cut the list into shards of at most `limit` bytes (a larger tensor gets a shard of its own)."""
    groups: list[list[Planned]] = [[]]
    filled = 0
    for item in planned:
        if groups[-1] and filled + item.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(item)
        filled += item.nbytes
    return groups


def write_tensors(
    folder: Path, planned: list[Planned], values: Iterator[tuple[str, torch.Tensor]], limit: int = SHARD_BYTES
) -> None:
    """Write safetensors shards and, for more than one, their index.

    `values` yields (name, tensor) in the order of `planned`; one tensor is in memory at a time.
    """
    groups = shards(planned, limit)
    names = (
        [SINGLE]
        if len(groups) == 1
        else [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    )
    for file_name, group in zip(names, groups, strict=True):
        with (folder / file_name).open("wb", buffering=0) as stream:
            stream.write(_header(group))
            for item in group:
                name, tensor = next(values)
                if (name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) != (
                    item.name,
                    item.shape,
                    item.dtype,
                ):
                    raise AssertionError(f"{name} {tuple(tensor.shape)} {tensor.dtype} came where {item} was planned")
                _write_all(stream, tensor)
                del tensor
    if len(groups) > 1:
        total = sum(item.nbytes for item in planned)
        weight_map = {item.name: name for name, group in zip(names, groups, strict=True) for item in group}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _header(group: list[Planned]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for item in group:
        header[item.name] = {
            "dtype": SAFETENSORS_NAMES[item.dtype],
            "shape": list(item.shape),
            "data_offsets": [offset, offset + item.nbytes],
        }
        offset += item.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def _write_all(stream: Any, tensor: torch.Tensor) -> None:
    import torch

    data = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    while data:
        data = data[stream.write(data[: 1 << 30]) :]
