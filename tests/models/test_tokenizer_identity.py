"""A tokenizer that was saved again is the same one, whatever its files' bytes are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.models import tokenizer_identity
from nemo_workflow.models.tokenizer_identity import (
    OWN_END,
    OtherEnd,
    bytes_hash,
    content_hash,
    end_named,
    made_with,
    of_checkpoint,
    other_end,
    same,
)
from tests.later import later
from tests.models import sentencepiece_folders
from tests.places import write_nemo_model, write_tokenizer

transformers = later("transformers")
MERGES = [["a", "b"], ["ab", "c"]]


def write_again(source: Path, target: Path, **change: Any) -> Path:
    """The folder with its tokenizer.json in another order and with other white space, and with some of its fields changed."""
    target.mkdir()
    (target / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())
    said = json.loads((source / "tokenizer.json").read_text())
    said = {key: said[key] for key in reversed(said)} | change
    said["model"] = {key: said["model"][key] for key in reversed(said["model"])}
    (target / "tokenizer.json").write_text(json.dumps(said, indent=4))
    return target


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte_bpe", "gpt2_bpe", "tiktoken_bpe", "unigram", "byte_fallback_bpe"])
def test_saved_again_by_transformers(tokenizers_dir: Path, tmp_path: Path, kind: str) -> None:
    folder = tokenizers_dir / kind
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert bytes_hash(folder) != bytes_hash(tmp_path) and same(folder, tmp_path)
    others = [other for other in tokenizers_dir.iterdir() if other != folder]
    assert not any(same(other, tmp_path) for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GemmaTokenizer", "T5Tokenizer"])
def test_a_whole_one_that_transformers_made_of_a_sentencepiece_model(tmp_path: Path, kind: str) -> None:
    folder = sentencepiece_folders.save(tmp_path / "a", kind)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").is_file() and same(folder, tmp_path / "b")
    assert made_with((bytes_hash(folder), content_hash(folder)), str(folder), tmp_path / "b")
    other = sentencepiece_folders.save(tmp_path / "c", "XLMRobertaTokenizer")
    assert not same(other, tmp_path / "b")


def test_what_older_files_leave_out_is_not_another_tokenizer(tmp_path: Path) -> None:
    """Merges in a text each, no fields of later versions, and the end token that only tokenizer_config.json adds."""
    folder = write_tokenizer(tmp_path / "a", 50)
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}}
    step = {"type": "ByteLevel", "add_prefix_space": False}
    old = write_again(folder, tmp_path / "old", model=model | {"merges": ["a b", "ab c"]}, pre_tokenizer=step)
    new_model = model | {"merges": MERGES, "unk_token": None, "byte_fallback": False, "ignore_merges": False}
    new_step = step | {"use_regex": True, "trim_offsets": True}
    added = [{"id": 5, "content": "</s>", "special": True, "lstrip": False, "rstrip": False, "single_word": False}]
    new = write_again(
        folder, tmp_path / "new", model=new_model, pre_tokenizer=new_step, added_tokens=added, padding={"x": 1}
    )
    assert same(old, new) and bytes_hash(old) != bytes_hash(new)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "WordLevel", "vocab": {"w1": 0, "w0": 1}, "unk_token": "w0"}},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {"normalizer": {"type": "NFC"}},
        {"added_tokens": [{"id": 0, "content": "w0", "lstrip": True}]},
    ],
)
def test_what_decides_an_id_is_seen(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_tokenizer(tmp_path / "a", 50)
    assert same(folder, write_again(folder, tmp_path / "b"))
    assert not same(folder, write_again(folder, tmp_path / "c", **change))


def test_a_scores_last_digit_is_as_it_was_written(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "a", 50)
    scores = (-9.529344648815343, -9.529344648815345, -9.6)
    models = ({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["x", score]]} for score in scores)
    one, again, other = (
        write_again(folder, tmp_path / str(number), model=model) for number, model in enumerate(models)
    )
    assert same(one, again) and not same(one, other)


def test_files_without_a_whole_one(tmp_path: Path) -> None:
    for name, vocabulary, merges in (("a", '{"a": 0, "b": 1}', "x"), ("b", '{"b":1,"a":0}', "x"), ("c", "{}", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(vocabulary)
        (tmp_path / name / "merges.txt").write_text(merges)
    assert same(tmp_path / "a", tmp_path / "b") and not same(tmp_path / "a", tmp_path / "c")


def test_older_figures_know_the_bytes_alone(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "a", 50)
    again, other = write_again(folder, tmp_path / "b"), write_tokenizer(tmp_path / "c", 51)
    older, newer = (bytes_hash(folder), None), (bytes_hash(folder), content_hash(folder))
    assert made_with(older, None, folder) and made_with(newer, None, again) and not made_with(newer, None, other)
    assert made_with(older, str(folder), again) and not made_with(older, str(folder), other)
    assert not made_with(older, None, again)  # nobody can tell any more
    (folder / "tokenizer.json").write_bytes((other / "tokenizer.json").read_bytes())
    assert not made_with(older, str(folder), other)  # the folder has another one now
    assert made_with((None, None), None, other)


def test_the_tokenizer_of_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = write_nemo_model(tmp_path / "m")
    assert of_checkpoint(checkpoint) is None is of_checkpoint(tmp_path)
    (checkpoint / "context" / "artifacts").mkdir()
    (checkpoint / "context" / "artifacts" / "generation_config.json").write_text("{}")
    assert of_checkpoint(checkpoint) is None
    written = write_tokenizer(checkpoint / "context" / "nemo_tokenizer", 50)
    assert of_checkpoint(checkpoint) == written
    assert tokenizer_identity.WHOLE in {path.name for path in written.iterdir()}


END = {"append_eod": True, "eod_id": 0, "eod_token": "<end>", OWN_END: "<end>"}


@pytest.mark.parametrize(
    ("said", "ours", "expected"),
    [
        (END, ("<end>", 0), None), (END, ("the", 5), OtherEnd("<end>", 0, False)), (END, ("<new>", None), OtherEnd("<end>", 0, False)),
        (END, ("<end>", None), None), (END, (None, None), None), ({}, ("the", 5), None), (END | {"append_eod": False}, ("the", 5), None),
        (END | {OWN_END: "the"}, ("the", 5), OtherEnd("<end>", 0, True)),  # --eod-token
        (END | {OWN_END: None}, ("the", 5), OtherEnd("<end>", 0, True)),  # of a tokenizer without an end
        ({"append_eod": True, "eod_id": 0, "eod_token": "<end>"}, ("the", 5), OtherEnd("<end>", 0, None)),  # of an older version
        ({"append_eod": True, "eod_id": 0}, ("the", 5), OtherEnd(None, 0, None)), ({"append_eod": True, "eod_id": 0}, ("<new>", None), None),
        ({"append_eod": True, "eod_id": 5}, ("the", 5), None),  # joined by an older version
    ],
)  # fmt: skip
def test_the_end_of_documents_that_is_not_a_tokenizers(
    said: dict[str, Any], ours: tuple[str | None, int | None], expected: OtherEnd | None
) -> None:
    assert other_end(said, *ours) == expected


def test_an_end_is_named_by_what_is_known() -> None:
    assert [end_named("<end>", 0), end_named("<end>", None), end_named(None, 0)] == ["<end> (0)", "<end>", "id 0"]
