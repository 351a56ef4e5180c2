"""Why a pair that is there isn't what a command would write: what the figures beside it tell of its input, tokenizer and flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from nemo_workflow.models.tokenizer_identity import bytes_hash
from nemo_workflow.preprocess.asked import Asked
from nemo_workflow.preprocess.earlier import recipe_of
from nemo_workflow.utils.console import and_more
from nemo_workflow.utils.files import absolute

NOT_TOLD = "and nothing beside it says from which input, with which tokenizer and flags it was made"
SWITCHES = ("append_eod", "special_tokens")  # flags that the figures hold by these names


def how(prefix: Path, paths: Sequence[str], asked: Asked) -> str:
    """'made with another tokenizer (/t)': in what a pair differs from what `asked` would make of the inputs at `paths`."""
    said = _figures(prefix)
    if not said:
        return NOT_TOLD
    before = [str(absolute(Path(each["path"]))) for each in said["inputs"]]
    other_input = [f"from other input ({and_more(before)})"] if not set(before) & set(paths) else []
    other_make = [] if said["recipe"] == asked.recipe else list(_other_make(said, asked))
    if other_input or other_make:
        return f"made {' and '.join([*other_input, *other_make])}"
    return "and what was made with it is no longer there as it was"


def _figures(prefix: Path) -> dict[str, Any]:
    """What preprocessing wrote beside a pair; {} where that isn't whole."""
    try:
        said = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))
        whole = all(said[name] is not None for name in ("recipe", "tokenizer_sha256", *SWITCHES))
        return said if whole and all("path" in each for each in said["inputs"]) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _other_make(said: dict[str, Any], asked: Asked) -> Iterator[str]:
    """The tokenizer, the flags, or both; in doubt of which, either."""
    switches = [name for name in SWITCHES if said[name] != getattr(asked.args, name)]
    flags = [_switch(name, said[name]) for name in switches]
    if said["tokenizer_sha256"] != bytes_hash(asked.tokenizer):
        place = str(said.get("tokenizer_path"))
        replaced = Path(place).resolve() == asked.tokenizer.resolve()
        yield f"before the tokenizer in {place} changed" if replaced else f"with another tokenizer ({place})"
    else:
        flags = _flags(said, asked, flags)
        if not flags:
            yield "with other flags, or beside another tokenizer_config.json"
    if flags:
        yield f"with {' '.join(flags)}"


def _flags(said: dict[str, Any], asked: Asked, switches: list[str]) -> list[str]:
    """The flags that give the pair's recipe with today's tokenizer; none where no others than these are known to."""
    args, end = asked.args, said.get("eod_token")
    ends: dict[str | None, list[str]] = {end: [f"--eod-token '{end}'"], None: []}
    keys = {tuple(one): [f"--json-keys {' '.join(one)}"] for one in (["text"], *([key] for key in args.json_keys))}
    ends, keys = ends | {args.eod_token: []}, keys | {tuple(args.json_keys): []}
    for (end, of_end), (key, of_key) in product(ends.items(), keys.items()):
        changed = {name: said[name] for name in SWITCHES} | {"eod_token": end, "json_keys": list(key)}
        if recipe_of(argparse.Namespace(**{**vars(args), **changed}), asked.tokenizer) == said["recipe"]:
            dropped = ["no --eod-token"] if args.eod_token and end is None and said["append_eod"] else []
            return [*switches, *of_end, *dropped, *of_key]
    return []


def _switch(name: str, on: bool) -> str:
    return f"--{'' if on else 'no-'}{name.replace('_', '-')}"
