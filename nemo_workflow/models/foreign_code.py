"""A Hugging Face folder from elsewhere is data: whatever in its config.json would fetch or run code is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.models.tokenizer_files import json_of
from nemo_workflow.utils.errors import Refusal

# auto_map: transformers imports Python files of the folder; _attn_implementation…: it fetches kernels from the Hub and runs
# them (CVE-2026-4372), whatever trust_remote_code says
KEYS = ("auto_map", "_attn_implementation_internal", "_attn_implementation_autoset", "custom_generate")
HUB_KERNEL = (
    "_attn_implementation",
    "attn_implementation",
    "experts_implementation",
)  # refused where it names a repository


def refuse_code(flag: str, folder: Path) -> None:
    """Raise Refusal where config.json or generation_config.json of a model's folder names code."""
    for name in ("config.json", "generation_config.json"):
        for key, value in _named(json_of(folder / name)):
            raise Refusal(
                f"{flag} {folder}: {name} has {key} ({value!s:.60}), which makes transformers fetch or run code that comes with the"
                f" model; take {key} out of {name} if transformers has the model's own class, or use another folder"
            )


def _named(config: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of what names code, at any depth."""
    if isinstance(config, list):
        for one in config:
            yield from _named(one)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if (key in KEYS and value) or (key in HUB_KERNEL and isinstance(value, str) and "/" in value):
            yield key, value
        else:
            yield from _named(value)
