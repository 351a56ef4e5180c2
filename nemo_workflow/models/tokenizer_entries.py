"""Which tokens a tokenizer will have, told from its folder without transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.models.tokenizer_files import json_of, readable
from nemo_workflow.utils.errors import Refusal

# Tokenizers that have an id for every piece of their tokenizer.model, in its order; others add some or move them.
AS_PIECES = ("LlamaTokenizer", "GemmaTokenizer")
LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
# special tokens that a class has where its files name none
DEFAULTS: dict[str, dict[str, str]] = {
    "LlamaTokenizer": LLAMA,
    "GemmaTokenizer": {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
}
# model types -> the class of their tokenizer, where nothing else names it
CLASSES = dict.fromkeys(("llama", "mistral", "mixtral"), "LlamaTokenizer") | {"gemma": "GemmaTokenizer"}
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")


def vocabulary_of(folder: Path, vocabulary: dict[str, Any], config: dict[str, Any]) -> dict[str, int] | None:
    """Token -> id of tokenizer.json (`vocabulary`) or tokenizer.model; None where the files don't tell."""
    words = vocabulary.get("model", {}).get("vocab")
    added = {entry["content"]: int(entry["id"]) for entry in vocabulary.get("added_tokens", [])}
    if isinstance(words, dict):
        return {**words, **added}
    if isinstance(words, list):  # Unigram: [[token, score], …]
        return {**{entry[0]: number for number, entry in enumerate(words)}, **added}
    return None if vocabulary else _pieces(folder, config)


def added_by_transformers(folder: Path, config: dict[str, Any]) -> list[str]:
    """Tokens that the files beside name, each once: those that the vocabulary lacks get the ids after its last."""
    found = {entry["content"]: None for entry in config.get("added_tokens_decoder", {}).values()}
    settings = {**DEFAULTS.get(_class(folder, config), {}), **config}
    if not config.get("added_tokens_decoder"):  # else transformers reads neither of the older files
        settings |= json_of(folder / "special_tokens_map.json")
        found |= dict.fromkeys(json_of(folder / "added_tokens.json"))
    for name in (*ROLES, *LISTS):
        found |= dict.fromkeys(_texts(settings.get(name)))
    return list(found)


def end_of_document(folder: Path, config: dict[str, Any]) -> str | None:
    """The text of the token that the files name as eos_token, that of special_tokens_map.json first where transformers reads it."""
    own = config.get("eos_token")
    named = (
        own
        if own and "added_tokens_decoder" in config
        else json_of(folder / "special_tokens_map.json").get("eos_token")
    )
    named = named or own
    return named.get("content") if isinstance(named, dict) else named


def _texts(value: Any) -> Iterator[str]:
    """The tokens that a setting names: a text, an added token's object, a list of them, or an object of names to them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and "content" in value:
        yield from _texts(value["content"])
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _class(folder: Path, config: dict[str, Any]) -> str:
    """The tokenizer's class, without its Fast."""
    model = json_of(folder / "config.json")
    name = config.get("tokenizer_class") or model.get("tokenizer_class") or CLASSES.get(str(model.get("model_type")))
    return str(name or "").removesuffix("Fast")


def _pieces(folder: Path, config: dict[str, Any]) -> dict[str, int] | None:
    """Piece -> id of a folder's SentencePiece model; None where there is none, or it doesn't tell the entries."""
    file = folder / "tokenizer.model"
    if _class(folder, config) not in AS_PIECES or not readable(file):
        return None
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise Refusal(f"{file}: is not a SentencePiece model ({str(error).splitlines()[0][:200]})") from None
    numbers = list(range(model.get_piece_size()))
    return dict(zip(model.id_to_piece(numbers), numbers, strict=True))
