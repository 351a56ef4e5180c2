"""Hugging Face folders: what they hold (read without torch), tensors one at a time, and a writer that streams.

The safetensors library writes a shard only from memory, all of it at once; the format is a JSON header and raw bytes
(https://huggingface.co/docs/safetensors), so the writer here lays down the header first and each tensor as it comes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_workflow.models.tokenizer_files import readable
from nemo_workflow.utils.errors import Refusal

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPE_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1}
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SAFETENSORS_NAMES = {name: short for short, name in TORCH_NAMES.items()}
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "*.model", "*.tiktoken", "chat_template*",
)  # fmt: skip
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
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise Refusal(f"{path}: a JSON object is expected")
    return value


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one .safetensors file; its size is checked against the header."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= size - 8:
            raise Refusal(f"{path}: is not a whole safetensors file (header truncated): download or copy it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise Refusal(f"{path}: is not a safetensors file (its header is no JSON)") from error
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if 8 + length + end > size:
            missing = 8 + length + max(item["data_offsets"][1] for item in header.values()) - size
            raise Refusal(f"{path}: is truncated, {missing} bytes are missing: download or copy it again")
        found[name] = TensorInfo(path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
    return found


def list_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a Hugging Face folder, by name. Refused: a missing or truncated shard, an index that names what isn't there."""
    index = folder / INDEX
    if index.exists():
        weight_map: dict[str, str] = read_json(index).get("weight_map", {})
        files = sorted(set(weight_map.values()))
    elif (folder / SINGLE).exists():
        weight_map, files = {}, [SINGLE]
    else:
        older = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" ({older[0]} is a pickle: load it with transformers and save it with save_pretrained)" if older else ""
        raise Refusal(f"{folder}: has no {SINGLE} and no {INDEX}{hint}")
    problems = [
        f"{folder}: shard {name} is named by {INDEX} and missing" for name in files if not (folder / name).is_file()
    ]
    problems += [f"{index}: shard name {name!r} leaves the folder" for name in files if Path(name).name != name]
    if problems:
        raise Refusal(problems)
    tensors: dict[str, TensorInfo] = {}
    for file_name in files:
        held = read_header(folder / file_name)
        tensors |= {name: info for name, info in held.items() if weight_map.get(name, file_name) == file_name}
    lost = sorted(set(weight_map) - set(tensors))
    if lost:
        raise Refusal(f"{index}: names {len(lost)} tensors that no shard holds, e.g. {lost[0]}")
    return tensors


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's own files: data only, never code."""
    found = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file() and readable(path)}
    return sorted(path for path in found if path.suffix != ".py")


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
