"""A checkpoint from elsewhere is read without running what it contains.

Of --nemo-model, training reads three kinds of file: context/model.yaml (as plain data), and below weights/ pickles
(.metadata, common.pt and the objects inside .distcp files) and tensors. A pickle can call any function. Before NeMo
opens them, each is read here with stand-ins in place of every class and function, so that nothing is called, and
refused when it names one that a checkpoint has no use for. Tensors are read by torch with weights_only=True.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Refusal

NAMES = {
    "torch": {
        "Size", "device", "Tensor", "bfloat16", "float16", "float32", "float64", "half", "float", "double", "uint8",
        "int8", "int16", "int32", "int64", "long", "bool", "float8_e4m3fn", "float8_e5m2", "BFloat16Storage",
        "HalfStorage", "FloatStorage", "DoubleStorage", "ByteStorage", "CharStorage", "ShortStorage", "IntStorage",
        "LongStorage", "BoolStorage", "strided",
    },
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch.serialization": {"_get_layout"},
    "torch.storage": {"UntypedStorage", "TypedStorage"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {"WriteItem", "WriteItemType", "TensorWriteData", "SavePlan", "BytesIOWriteData"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "megatron.core.dist_checkpointing.strategies.torch": {"MCoreMetadata", "MCoreSavePlan"},
    "collections": {"OrderedDict", "defaultdict"},
    "builtins": {"set", "frozenset", "dict", "list", "tuple", "bytearray", "complex", "slice"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "_codecs": {"encode"},
    "_io": {"BytesIO"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
}  # fmt: skip
# Enums among them, with their members: Python before 3.11.4 pickles a member as getattr(class, name).
ENUMS = {
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): {
        "TORCH_CONTIGUOUS_FORMAT", "TORCH_CHANNELS_LAST", "TORCH_PRESERVE_FORMAT",
    },
    ("torch.distributed.checkpoint.planner", "WriteItemType"): {"TENSOR", "SHARD", "BYTE_IO"},
}  # fmt: skip
GETATTR = ("builtins", "getattr")

LARGEST = 1 << 30  # bytes of a pickle without its tensors


class _Nothing:
    """Stands for a class or function; keeps what it is given, does nothing."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> _Nothing:
        made = super().__new__(cls)
        made.__dict__["arguments"] = arguments
        return made

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __call__(self, *arguments: Any) -> _Nothing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Unpickles with stand-ins; `where` is the file for the message."""

    def __init__(self, stream: BinaryIO, where: str):
        super().__init__(stream)
        self.where = where
        self.kinds: dict[tuple[str, str], type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == GETATTR:
            return self._enum_member
        if name not in NAMES.get(module, ()):
            raise Refusal(
                f"{self.where} names {module}.{name}, which has no place in a checkpoint: loading it could run code;"
                " don't use this checkpoint, or ask for its weights as safetensors"
            )
        if (module, name) in {("collections", "OrderedDict"), ("builtins", "dict")}:
            return dict
        return self.kinds.setdefault((module, name), type(name, (_Nothing,), {}))

    def _enum_member(self, *arguments: Any) -> Any:
        """Stands for getattr, which may take a member of ENUMS and nothing else."""
        if len(arguments) == 2:
            owner, name = arguments
            found = next((key for key, kind in self.kinds.items() if kind is owner), None)
            # of a stand-in for a string's subclass, `in` would ask the stand-in
            if found in ENUMS and type(name) is str and name in ENUMS[found]:
                return owner(name)
        raise Refusal(
            f"{self.where} calls builtins.getattr for more than the member of an enum, which has no place in a checkpoint:"
            " loading it could run code; don't use this checkpoint, or ask for its weights as safetensors"
        )

    def persistent_load(self, identity: Any) -> Any:
        return _Nothing()  # a tensor's storage: bytes beside the pickle


def check_weights(weights: Path) -> None:
    """Raise Refusal naming file and symbol when a pickle below `weights` names anything unexpected."""
    metadata = weights / ".metadata"
    for path in sorted(weights.rglob("*.pt")):
        _check_archive(_opened(path), str(path))
    if not metadata.is_file():
        raise Refusal(f"{weights}: .metadata is missing: not a NeMo 2 checkpoint, or an incomplete one")
    with _opened(metadata) as stream:
        read = _read(stream, str(metadata))
    for path, offset, length in _objects(read, weights):
        with _opened(path) as stream:
            stream.seek(offset)
            _check_archive(io.BytesIO(stream.read(min(length, LARGEST + 1))), str(path))


def _opened(path: Path) -> BinaryIO:
    """A file to read; raises Refusal for a pipe or a device, whose end may never come."""
    if not path.is_file():
        raise Refusal(f"{path}: is missing or not a regular file: not a checkpoint, or an incomplete one")
    return path.open("rb")


def _objects(metadata: Any, weights: Path) -> Iterator[tuple[Path, int, int]]:
    """File, offset and length of everything in the .distcp files that is no tensor."""
    try:
        kinds = {name: type(entry).__name__ for name, entry in metadata.state_dict_metadata.items()}
        for index, info in metadata.storage_data.items():
            kind = kinds[index.fqn]
            if kind == "TensorStorageMetadata" and "_extra_state" in index.fqn:
                raise Refusal(f"{weights}/.metadata: {index.fqn} is a tensor, which Transformer Engine would unpickle")
            if kind != "TensorStorageMetadata":
                path = (weights / info.relative_path).resolve()
                if not path.is_relative_to(weights.resolve()):
                    raise Refusal(f"{weights}/.metadata: {info.relative_path} lies outside the checkpoint")
                yield path, int(info.offset), int(info.length)
    except (AttributeError, KeyError, TypeError) as error:
        raise Refusal(f"{weights}/.metadata: not the index of a checkpoint ({error})") from None


def _check_archive(stream: BinaryIO, where: str) -> None:
    """What torch.save wrote: a zip archive with a pickle in it, or (older) a bare pickle."""
    with stream:
        if stream.read(2) != b"PK":
            stream.seek(0)
            _check_nested(_read(stream, where), where)
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                for member in archive.infolist():
                    if member.filename.endswith("data.pkl"):
                        if member.file_size > LARGEST:
                            raise Refusal(f"{where}: its pickle has {human_bytes(member.file_size)} when unpacked")
                        _check_nested(_read(io.BytesIO(archive.read(member)), where), where)
        except zipfile.BadZipFile as error:
            raise Refusal(f"{where}: damaged: {error}") from None


def _check_nested(value: Any, where: str) -> None:
    """Bytes inside a pickle that are an archive or a pickle themselves (Transformer Engine's extra state)."""
    if type(value).__name__ == "BytesIO" and isinstance(value, _Nothing):
        state = vars(value).get("state") or vars(value).get("arguments") or ()
        content = next((part for part in state if isinstance(part, bytes | bytearray)), b"")
        if content:
            _check_archive(io.BytesIO(bytes(content)), where)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_nested(part, where)
    elif isinstance(value, dict):
        for part in value.values():
            _check_nested(part, where)


def _read(stream: BinaryIO, where: str) -> Any:
    try:
        return _Reader(stream, where).load()
    except Refusal:
        raise
    except Exception as error:  # noqa: BLE001
        raise Refusal(f"{where}: can't be read as a checkpoint's pickle: {error}") from None
