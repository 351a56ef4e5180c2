"""`python -m nemo_workflow.tokenizer --extend`: a model's own tokenizer with more tokens behind it, learnt from new text.

Byte pair encoding is learnt from the text as the model's tokenizer splits it. Of its merges those that make tokens which the old
one lacks are put behind the old merges: old tokens keep their ids, and what old merges join is joined as before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.models import hub
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import written_aside
from nemo_workflow.utils.folder_kinds import TOKENIZERS, meant
from nemo_workflow.utils.processes import interruptible

FILE = "tokenizer.json"
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
MORE = 4  # times the entries asked for are learnt at first: some are the old one's already
COUNTED = 1 << 20  # characters over which the two tokenizers are compared


def extend(source: Path, documents: Iterable[str], folder: Path, entries: int) -> tuple[int, float, float]:
    """Write the tokenizer of `source` with up to `entries` more tokens to `folder`, which is there.

    Returns:
        Tokens added, and tokens per character of the text with the old tokenizer and with the new one.

    Raises:
        Refusal: the tokenizer is not one of byte pair encoding, or there is nothing to learn.
    """
    from tokenizers import Tokenizer

    old = _read(source)
    kept: list[str] = []
    learnt = _learn(old, _seen(documents, kept), entries)
    added, merges = new_tokens(old, learnt, entries)
    if not added:
        raise Refusal(
            f"--input: nothing in it that the tokenizer of --extend {source} lacks; --json-keys names the key of the text"
        )
    old["model"]["vocab"] |= added
    old["model"]["merges"] += merges if _pairs(old) else [" ".join(pair) for pair in merges]
    for name in BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    with written_aside(folder / FILE) as stream:  # last: its presence says that the folder is whole
        json.dump(old, stream, ensure_ascii=False)
    before, after = (Tokenizer.from_file(str(place / FILE)) for place in (source, folder))
    return len(added), _tokens_a_character(before, kept), _tokens_a_character(after, kept)


def new_tokens(old: dict[str, Any], learnt: dict[str, Any], entries: int) -> tuple[dict[str, int], list[list[str]]]:
    """(id of each new token, merges that make them), in the order in which they were learnt; arguments as in tokenizer.json."""
    vocabulary = old["model"]["vocab"]
    known = {*vocabulary, *(token["content"] for token in old["added_tokens"])}
    next_id = max([*vocabulary.values(), *(token["id"] for token in old["added_tokens"])]) + 1
    made = ["".join(pair) for pair in learnt["model"]["merges"]]
    letters = [token for token in sorted(learnt["model"]["vocab"], key=learnt["model"]["vocab"].get) if len(token) == 1]
    added: dict[str, int] = {}
    for token in letters:
        if token not in known and len(added) < entries:
            added[token] = next_id + len(added)
    merges = []
    for pair, token in zip(learnt["model"]["merges"], made, strict=True):
        if (
            len(added) < entries
            and token not in known
            and token not in added
            and all(p in known or p in added for p in pair)
        ):
            added[token] = next_id + len(added)
            merges.append(list(pair))
    return added, merges


def _read(source: Path) -> dict[str, Any]:
    path = source / FILE
    if not source.exists():
        raise Refusal(f"--extend {source}: {hub.no_folder('--extend', source)}")
    if not path.is_file():
        write = f"; write one with transformers: AutoTokenizer.from_pretrained({str(source)!r}).save_pretrained(FOLDER)"
        raise Refusal(f"--extend {source}: no {FILE} in it{meant(source, TOKENIZERS, '--extend') or write}")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = content["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refusal(f"--extend {source}: its {FILE} can't be read ({error})") from error
    if kind != "BPE":
        raise Refusal(
            f"--extend {source}: its {FILE} is a {kind} tokenizer; only byte pair encoding (BPE) can be extended"
        )
    return content


def _learn(old: dict[str, Any], documents: Iterator[str], entries: int) -> dict[str, Any]:
    """A new BPE of the text, normalised and split as the old tokenizer does it; as in tokenizer.json, merges as pairs."""
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    empty = {**old["model"], "vocab": {}, "merges": [], "unk_token": None}
    bare = Tokenizer.from_str(json.dumps({**old, "model": empty, "added_tokens": [], "post_processor": None}))
    if bare.pre_tokenizer is None:  # a whole text would be one word: as sentencepiece, at its sign for a space
        split = [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation("isolated")]
        bare.pre_tokenizer = pre_tokenizers.Sequence(split)
    letters = pre_tokenizers.ByteLevel.alphabet() if '"ByteLevel"' in json.dumps(old["pre_tokenizer"]) else []
    size = MORE * entries + len(letters)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=False)
    interruptible(lambda: bare.train_from_iterator(documents, trainer))
    learnt: dict[str, Any] = json.loads(bare.to_str())
    if not _pairs(learnt):
        learnt["model"]["merges"] = [merge.split(" ") for merge in learnt["model"]["merges"]]
    return learnt


def _pairs(content: dict[str, Any]) -> bool:
    """Whether the merges are written as pairs, as newer versions do, or as one string each."""
    merges = content["model"]["merges"]
    return not merges or not isinstance(merges[0], str)


def _seen(documents: Iterable[str], kept: list[str]) -> Iterator[str]:
    """The documents; the first of them are put into `kept`."""
    size = 0
    for text in documents:
        if size < COUNTED:
            kept.append(text)
            size += len(text)
        yield text


def _tokens_a_character(tokenizer: Any, texts: list[str]) -> float:
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))
    return tokens / max(1, sum(map(len, texts)))
