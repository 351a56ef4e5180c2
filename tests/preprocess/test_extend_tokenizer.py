"""`python -m nemo_workflow.tokenizer --extend`: old tokens stay, new ones come behind, and text comes back whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_workflow.preprocess import train_tokenizer
from nemo_workflow.preprocess.extend_tokenizer import extend
from nemo_workflow.utils.errors import Refusal
from tests.models import sentencepiece_folders
from tests.preprocess.test_train_tokenizer import run

ENGLISH = "The quick brown fox jumps over the lazy dog, and the dog sleeps. " * 30
CHINESE = "從前有一個國王，他有三個女兒。國王的女兒們住在國王的城裡。" * 30


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A byte-level tokenizer of English, merges that never come up beside the others."""
    folder = tmp_path / "old"
    folder.mkdir()
    train_tokenizer.train([ENGLISH], folder, 300)
    return folder


@pytest.mark.slow
def test_a_language_in_bytes_gets_tokens_of_its_own(old: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "chinese.txt").write_text(CHINESE)
    done = run(
        "--input", tmp_path / "chinese.txt", "--extend", old, "--vocabulary", 40, "--output-dir", tmp_path / "new"
    )
    assert done.returncode == 0, done.stderr
    assert "40 tokens added" in done.stdout and f"3.00 with the tokenizer of {old}" in done.stdout
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (old, tmp_path / "new"))
    assert len(after) == len(before) + 40
    assert before.get_vocab().items() <= after.get_vocab().items()
    ids = after(CHINESE)["input_ids"]
    assert after.decode(ids) == CHINESE and len(ids) < 0.5 * len(before(CHINESE)["input_ids"])
    assert after(ENGLISH)["input_ids"] == before(ENGLISH)["input_ids"]
    assert sum(i >= len(before) for i in ids) > len(ids) / 2
    assert after.eos_token == before.eos_token


def test_merges_as_strings_and_as_pairs_are_continued_as_they_are(old: Path, tmp_path: Path) -> None:
    content = json.loads((old / "tokenizer.json").read_text())
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in content["model"]["merges"]]
    for name, merges in (("pairs", pairs), ("strings", [" ".join(pair) for pair in pairs])):
        content["model"]["merges"] = merges
        (old / "tokenizer.json").write_text(json.dumps(content))
        (tmp_path / name).mkdir()
        extend(old, [CHINESE], tmp_path / name, 20)
        found = json.loads((tmp_path / name / "tokenizer.json").read_text())["model"]["merges"]
        assert len({type(merge) for merge in found}) == 1 and len(found) > len(pairs)
    first, second = ((tmp_path / name / "tokenizer.json").read_text() for name in ("pairs", "strings"))
    assert json.loads(first)["model"]["vocab"] == json.loads(second)["model"]["vocab"]


@pytest.mark.slow
def test_sentencepiece_with_letters_that_it_lacks(tmp_path: Path) -> None:
    """No pre-tokenizer, a sign for a space: whole texts would be single words."""
    from transformers import AutoTokenizer

    place = tmp_path / "sp"
    place.mkdir()
    sentencepiece_folders.save(place, "LlamaTokenizer")
    AutoTokenizer.from_pretrained(place).save_pretrained(tmp_path / "old")
    (tmp_path / "new").mkdir()
    added, before, after = extend(tmp_path / "old", [CHINESE], tmp_path / "new", 30)
    assert added == 30 and after < before / 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert tokenizer.decode(tokenizer(CHINESE, add_special_tokens=False)["input_ids"]).strip() == CHINESE
    assert "國王" in {token.strip("▁") for token in tokenizer.tokenize(CHINESE)}


def test_what_cannot_be_extended_is_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="--input: nothing in it that the tokenizer of --extend"):
        extend(old, ["a"], tmp_path / "new", 10)
    content = json.loads((old / "tokenizer.json").read_text())
    content["model"] = {"type": "Unigram", "vocab": [["a", 0.0]]}
    (old / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(Refusal, match="is a Unigram tokenizer; only byte pair encoding"):
        extend(old, [CHINESE], tmp_path / "new", 10)
    (old / "tokenizer.json").write_text("[]")
    with pytest.raises(Refusal, match=r"its tokenizer\.json can't be read"):
        extend(old, [CHINESE], tmp_path / "new", 10)
    (old / "tokenizer.json").unlink()
    with pytest.raises(Refusal, match=r"no tokenizer.json in it; .*save_pretrained"):
        extend(old, [CHINESE], tmp_path / "new", 10)
    assert not (tmp_path / "new").exists()
    done = run("--input", tmp_path, "--extend", old, "--vocabulary", 0, "--output-dir", tmp_path / "new")
    assert done.returncode == 2 and "--vocabulary 0: add at least one token" in done.stderr


def test_a_hub_id_is_told_that_a_folder_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        Refusal, match=r"gpt2: no such folder.*; --extend takes a folder, no Hub id: `hf download gpt2 '\*.json'"
    ):
        extend(Path("gpt2"), [], tmp_path, 1)
    with pytest.raises(Refusal, match=r"nowhere: no such folder$"):
        extend(tmp_path / "nowhere", [], tmp_path, 1)
