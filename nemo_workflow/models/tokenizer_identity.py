"""Whether two tokenizers are the same: by what decides the id of a text, not by the bytes of their files.

transformers writes other white space, another order of keys and fields of its version when it saves a tokenizer again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.models.tokenizer_entries import added_by_transformers, vocabulary_of
from nemo_workflow.models.tokenizer_files import CONFIG, VOCABULARY, files_of, json_of, well_formed

MAKER = ("tokenizer_sha256", "tokenizer_content")  # of the figures beside data: `bytes_hash`, and later `content_hash`
OWN_END = "tokenizer_eod_token"  # of those figures: the tokenizer's own end of a document; not in older ones
WHOLE = "tokenizer.json"
STEPS = ("normalizer", "pre_tokenizer")  # of tokenizer.json: what cuts a text; what follows puts tokens around it
STRIPS = ("single_word", "lstrip", "rstrip")  # of an added token: what it takes from the text beside it
UNSET = {"use_regex": True, "trim_offsets": True}  # what older files leave out; null and false are left out too


def bytes_hash(folder: Path) -> str:
    """SHA-256 of the files that decide the ids: tokenizer.json, or the vocabulary files where there is none."""
    digest = hashlib.sha256()
    for file in _deciding_files(folder):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def content_hash(folder: Path) -> str:
    """SHA-256 of what those files say; a tokenizer that was saved again has the same. Raises Refusal."""
    with well_formed(folder):
        whole, config = json_of(folder / WHOLE), json_of(folder / CONFIG)
        said: Any = _deciding(folder, whole, config) if whole else [_said(path) for path in _deciding_files(folder)]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def same(one: Path, other: Path) -> bool:
    """Whether the tokenizers of two folders give every text the same ids. Raises Refusal."""
    return bytes_hash(one) == bytes_hash(other) or content_hash(one) == content_hash(other) or _one_source(one, other)


def _one_source(one: Path, other: Path) -> bool:
    """Whether one folder has a tokenizer.json that transformers made of the other's vocabulary files, which it saves too."""
    if (one / WHOLE).is_file() == (other / WHOLE).is_file():
        return False
    files = [{path.name: path for path in files_of(folder, VOCABULARY)} for folder in (one, other)]
    common = files[0].keys() & files[1].keys()
    return bool(common) and all(_said(files[0][name]) == _said(files[1][name]) for name in common)


def made_with(maker: tuple[str | None, ...], place: str | None, folder: Path) -> bool:
    """Whether data whose figures say `maker` was made with the tokenizer of a folder; figures without it are believed.

    Older figures know the bytes alone: what they were of is read at `place`, if it is still there as it was.
    """
    then_bytes, then_content = maker
    if then_bytes in (None, bytes_hash(folder)) or then_content == content_hash(folder):
        return True
    then = Path(place) if place else None
    return then is not None and then.is_dir() and bytes_hash(then) == then_bytes and same(then, folder)


@dataclass(frozen=True)
class OtherEnd:
    """Documents end with a token, by its text and id, that a tokenizer doesn't end one with.

    `chosen` with --eod-token; None where older figures don't tell.
    """

    token: str | None
    id: int
    chosen: bool | None

    def __str__(self) -> str:
        return end_named(self.token, self.id)


def other_end(said: dict[str, Any], eos: str | None, eos_id: int | None) -> OtherEnd | None:
    """How the documents end of data with these figures, where a tokenizer has another end: `eos`; else None.

    Of tokenizers with the same ids alone. Figures that don't tell are believed, and so is a tokenizer whose files don't.
    """
    token, number = said.get("eod_token"), said.get("eod_id")
    if not said.get("append_eod") or number is None or eos is None:
        return None
    if eos == token or (eos_id is not None and eos_id == number) or (eos_id is None and token is None):
        return None
    return OtherEnd(token, number, said[OWN_END] != token if OWN_END in said else None)


def end_named(token: str | None, number: int | None) -> str:
    """'<eos> (2)', or what is known of it."""
    return f"{token} ({number})" if token and number is not None else str(token or f"id {number}")


def of_checkpoint(folder: Path) -> Path | None:
    """The folder in a NeMo 2 checkpoint's context/ that holds its tokenizer: an import's or a run's; None where none does."""
    context = folder / "context"
    places = sorted(path for path in context.iterdir() if path.is_dir()) if context.is_dir() else []
    return next((path for path in places if files_of(path, VOCABULARY)), None)


def _deciding_files(folder: Path) -> list[Path]:
    whole = (folder / WHOLE).is_file()
    return files_of(folder, (WHOLE,) if whole else (*VOCABULARY, "added_tokens.json"))


def _said(path: Path) -> list[Any]:
    """A vocabulary file's name and what it says: as JSON where it is that, else the hash of its bytes."""
    data = path.read_bytes()
    try:
        return [path.name, json.loads(data)]
    except ValueError:
        return [path.name, hashlib.sha256(data).hexdigest()]


def _deciding(folder: Path, whole: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The part of a tokenizer.json that decides the ids, with the tokens that transformers adds to it."""
    ids = vocabulary_of(folder, whole, config) or {}
    named = added_by_transformers(folder, config)
    end = max(ids.values(), default=-1) + 1
    ids |= {token: end + number for number, token in enumerate(token for token in named if token not in ids)}
    entries = [*(config.get("added_tokens_decoder") or {}).values(), *(whole.get("added_tokens") or [])]
    strips = {entry["content"]: [name for name in STRIPS if entry.get(name)] for entry in entries}
    model = {key: value for key, value in (whole.get("model") or {}).items() if key != "merges"}
    if isinstance(model.get("vocab"), dict):  # is among `ids`; a list has scores too
        del model["vocab"]
    return {
        "ids": ids,
        "added": {token: [] for token in named} | strips,
        "merges": [_merge(pair) for pair in (whole.get("model") or {}).get("merges") or []],
        "model": _without_unset(model),
        "steps": {name: _without_unset(whole.get(name)) for name in STEPS},
    }


def _merge(pair: Any) -> Any:
    """['a', 'b'], as tokenizers writes it since 0.20, of 'a b', as before."""
    return pair.split(" ", 1) if isinstance(pair, str) else pair


def _without_unset(value: Any) -> Any:
    """Without what an older file leaves out; numbers to 12 digits, for a score's last one changes as it is written again."""
    if isinstance(value, dict):
        set_ones = ((k, v) for k, v in value.items() if v is not None and v is not False and UNSET.get(k) is not v)
        return {key: _without_unset(inner) for key, inner in set_ones}
    if isinstance(value, list):
        return [_without_unset(inner) for inner in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value
