"""Tokenizers with more entries than a model's: its own files, with tokens behind those that it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SPECIAL = "<|tool|>"
WORD = "Ġthequick"


def add_pieces(source: Path, folder: Path, words: list[str] | None = None, fill_to: int = 0) -> Path:
    """A copy with further pieces; without `words`, WORD and a special token.

    `fill_to`: the id of the first of them, as of a tokenizer with gaps.
    """
    folder.mkdir()
    for path in source.glob("*token*.json"):
        shutil.copy(path, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    model = content["model"]
    start = max([*model["vocab"].values(), *(entry["id"] for entry in content["added_tokens"]), fill_to - 1]) + 1
    for at, word in enumerate(words or [WORD, SPECIAL]):
        model["vocab"][word] = start + at
    if words is None:
        content["added_tokens"].append({**content["added_tokens"][0], "content": SPECIAL, "id": start + 1})
    path.write_text(json.dumps(content, ensure_ascii=False))
    return folder
