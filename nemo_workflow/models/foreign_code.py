"""A Hugging Face folder from elsewhere is data: whatever in its config.json would fetch or run code is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

from nemo_workflow.models.tokenizer_files import json_of
from nemo_workflow.utils.errors import Refusal

# auto_map, custom_pipelines: transformers imports Python files of the folder
KEYS = ("auto_map", "custom_pipelines", "custom_generate")
# a repository's name among these: transformers fetches kernels from the Hub and runs them (CVE-2026-4372), whatever
# trust_remote_code says
IMPLEMENTATION = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_implementation",
    "experts_implementation",
)
CONFIGS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"
)  # fmt: skip
CODE_FOLDER = "custom_generate"  # from_pretrained imports its generate.py, though trust_remote_code is False


def refuse_code(flag: str, folder: Path) -> None:
    """Raise Refusal where a model's folder holds code that transformers runs unasked, or one of its configurations names some."""
    if (folder / CODE_FOLDER).exists():
        raise Refusal(
            f"{flag} {folder}: holds {CODE_FOLDER}/, whose Python code transformers runs when it loads the model; remove that"
            " folder, or use another model"
        )
    for name in CONFIGS:
        config = json_of(folder / name)
        if "auto_map" in config and config["auto_map"] is None:
            raise Refusal(f"{flag} {folder}: {name} has auto_map null, which transformers can't read; take it out")
        for key, value in _named(config):
            raise Refusal(
                f"{flag} {folder}: {name} has {key} ({shorten(str(value), 60)}), which makes transformers fetch or run code that comes with the"
                f" model; take {key} out of {name} if transformers has the model's own class, or use another folder"
            )


def _names_code(key: str, value: Any) -> bool:
    return bool((key in KEYS and value) or (key in IMPLEMENTATION and isinstance(value, str) and "/" in value))


def _needs_flash(key: str, value: Any) -> bool:
    """Whether transformers takes the package flash_attn for it, and fails where it isn't installed."""
    return key in IMPLEMENTATION and isinstance(value, str) and value.startswith("flash_attention")


def _named(config: Any, asked: Callable[[str, Any], bool] = _names_code) -> Iterator[tuple[str, Any]]:
    """(key, value) of what is asked for, at any depth."""
    if isinstance(config, list):
        for one in config:
            yield from _named(one, asked)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if asked(key, value):
            yield key, value
        else:
            yield from _named(value, asked)


def code_named(config: dict[str, Any]) -> list[str]:
    """The keys of a config.json or its like that name code, each once."""
    return list(dict.fromkeys(key for key, _ in _named(config)))


def flash_named(config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a config.json that ask for the package flash_attn: how it was computed where that was written."""
    return dict(_named(config, _needs_flash))


def without_code(config: Any) -> Any:
    """The same without what names code, or asks for flash_attn: no folder of ours holds that, and each loads anywhere."""
    if isinstance(config, list):
        return [without_code(one) for one in config]
    if not isinstance(config, dict):
        return config
    return {
        key: without_code(value)
        for key, value in config.items()
        if not (_names_code(key, value) or _needs_flash(key, value))
    }
