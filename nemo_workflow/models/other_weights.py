"""What a folder without safetensors that could be read holds in their place, for the refusal."""

from __future__ import annotations

import re
from pathlib import Path

from nemo_workflow.utils.folder_kinds import ADAPTER, GGUF, MERGE

SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
GO_ON = "load it and save it with save_pretrained"

# a pattern of names -> what such a file or folder is, and what to do; the first that fits counts
KINDS = (
    ("*.incomplete", "a download that was broken off: start it again, it goes on"),
    ("*.gguf", GGUF),
    ("pytorch_model_fsdp_*", "a folder of FSDP's shards: `accelerate merge-weights` makes safetensors of it"),
    ("zero_to_fp32.py", "from a DeepSpeed checkpoint: `python zero_to_fp32.py . OUT --safe_serialization` makes safetensors of it"),
    ("*.distcp", f"of a distributed checkpoint of torch: {GO_ON}"),
    ("*.bin", "a pickle: load it with transformers and save it with save_pretrained, or, if the model's class is code of its own, as docs/conversion.md says"),
    *((pattern, f"not the form that transformers saves: {GO_ON}")
      for pattern in ("*.safetensors", "*.pth", "*.pt", "*.ckpt", "*.h5", "*.onnx", "*.msgpack", "*.npz")),
)  # fmt: skip


def weights_of_any_kind(folder: Path) -> bool:
    """Whether a folder holds weights, of whatever form, or an adapter's."""
    return any(next(folder.glob(pattern), None) for pattern, _ in KINDS) or (folder / ADAPTER).exists()


def what_is_there(folder: Path) -> str:
    """In brackets, after the words that neither weights nor an index were found."""
    if (folder / ADAPTER).exists():
        return f" ({ADAPTER} says that it is an adapter, LoRA or the like: {MERGE})"
    shards = sorted(path.name for path in folder.glob("*-of-*.safetensors") if SHARD.fullmatch(path.name))
    if shards:
        return f" ({shards[0]} is one of several shards, and their index is missing: download it too)"
    for pattern, what in KINDS:
        if found := sorted(path.name for path in folder.glob(pattern)):
            return f" ({found[0]} is {what})"
    return ""


def unnamed_shards(folder: Path, named: list[str]) -> list[str]:
    """Shards in the folder of the same set as those that its index names, and that it doesn't."""
    sets = {(found["name"], found["count"]) for name in named if (found := SHARD.fullmatch(name))}
    there = {path.name: SHARD.fullmatch(path.name) for path in folder.glob("*-of-*.safetensors")}
    return sorted(name for name, found in there.items() if found and found.groups() in sets and name not in named)
