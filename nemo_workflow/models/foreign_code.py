"""A Hugging Face folder from elsewhere is data: whatever in its config.json would fetch or run code is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.models.tokenizer_files import json_of
from nemo_workflow.utils.errors import Refusal

# auto_map, custom_pipelines: transformers imports Python files of the folder; _attn_implementation_internal: it fetches
# kernels from the Hub and runs them (CVE-2026-4372), whatever trust_remote_code says
KEYS = ("auto_map", "custom_pipelines", "_attn_implementation_internal", "custom_generate")
HUB_KERNEL = (
    "_attn_implementation",
    "attn_implementation",
    "experts_implementation",
)  # refused where it names a repository


CODE_FOLDER = "custom_generate"  # from_pretrained imports its generate.py, though trust_remote_code is False


def refuse_code(flag: str, folder: Path) -> None:
    """Raise Refusal where a model's folder holds code that transformers runs unasked, or its config.json or generation_config.json names some."""
    if (folder / CODE_FOLDER).exists():
        raise Refusal(
            f"{flag} {folder}: holds {CODE_FOLDER}/, whose Python code transformers runs when it loads the model; remove that"
            " folder, or use another model"
        )
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
        if _names_code(key, value):
            yield key, value
        else:
            yield from _named(value)


def _names_code(key: str, value: Any) -> bool:
    return bool((key in KEYS and value) or (key in HUB_KERNEL and isinstance(value, str) and "/" in value))


def code_named(config: dict[str, Any]) -> list[str]:
    """The keys of a config.json or its like that name code, each once."""
    return list(dict.fromkeys(key for key, _ in _named(config)))


def without_code(config: Any) -> Any:
    """The same without what names code, which no folder of ours holds: `refuse_code` has nothing to say to the result."""
    if isinstance(config, list):
        return [without_code(one) for one in config]
    if not isinstance(config, dict):
        return config
    return {key: without_code(value) for key, value in config.items() if not _names_code(key, value)}
