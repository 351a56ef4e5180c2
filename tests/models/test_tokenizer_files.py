"""One list of a tokenizer's files; folders of transformers 5; a class that is named or refused, never guessed."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from nemo_workflow.models import pretrained, tokenizer_entries, tokenizer_files, tokenizer_loading
from nemo_workflow.run_dir.fingerprint import tokenizer_digest
from nemo_workflow.run_dir.staged_tokenizer import add_kept
from nemo_workflow.utils.errors import Refusal
from tests.conversion import tiny_models as tiny
from tests.models import sentencepiece_folders

PICKLES = {"vocab.pkl", "vocab.bin"}  # Transformer-XL's
FILES = (
    "tokenizer.json", "tokenizer.model.v3", "tekken.json", "vocab.bpe", "source.spm", "bpe.codes", "added_tokens.json",
    "special_tokens_map.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
)  # fmt: skip
OTHERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "README.md",
    "tokenization_own.py",
    "vocab.pkl",
    ".vocab.txt",
)


def fill(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"of": name, "tokenizer_class": "GPT2Tokenizer"}))
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_list_has_the_vocabulary_of_every_class_of_transformers() -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    classes = {name for pair in TOKENIZER_MAPPING_NAMES.values() for name in pair if name}
    of_class = {
        name: set(getattr(tokenizer_class_from_name(name), "vocab_files_names", {}).values()) for name in classes
    }
    files = set().union(*of_class.values())
    alone = {"vocab.json"}, {"merges.txt"}
    assert {name for name, read in of_class.items() if read - {tokenizer_files.CONFIG} in alone} == {
        *tokenizer_files.VOCABULARY_ALONE
    }
    assert len(files) > 20
    known = (*tokenizer_files.VOCABULARY, tokenizer_files.CONFIG)
    assert {file for file in files if not any(fnmatchcase(file, pattern) for pattern in known)} == PICKLES


def test_every_file_is_staged_and_converted(tmp_path: Path) -> None:
    folder = fill(fill(tmp_path / "hf", FILES), OTHERS)
    assert {path.relative_to(folder).as_posix() for path in tokenizer_files.files_of(folder)} == set(FILES)
    tokenizer_files.copy_for_nemo(folder, tmp_path / "nemo")
    assert all(path.is_file() for path in (tmp_path / "nemo").iterdir())  # NeMo copies no folder
    (tmp_path / "back").mkdir()
    assert tokenizer_files.copy_back(tmp_path / "nemo", tmp_path / "back") == sorted(FILES)
    assert names_in(tmp_path / "back") == set(FILES)
    assert all((tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_every_file_that_decides_an_id_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    deciding = [
        name
        for name in FILES
        if not name.startswith(("tokenizer.json", "chat", "additional", "special", "tokenizer_c"))
    ]
    folder = fill(tmp_path / "hf", tuple(deciding))
    before = tokenizer_digest(str(folder))
    for name in deciding:
        (folder / name).write_text(json.dumps({"of": f"another {name}"}))
        after = tokenizer_digest(str(folder))
        assert after != before, name
        before = after


def test_what_came_with_the_model_is_staged_for_its_training(tmp_path: Path) -> None:
    """A model that was imported without a tokenizer keeps its config.json when it is trained with one from elsewhere."""
    context = fill(
        tmp_path / "model" / "context", ("nemo_tokenizer/config.json", "nemo_tokenizer/generation_config.json")
    )
    staged = fill(tmp_path / "staged", ("generation_config.json",))
    add_kept(context, staged)
    kept = json.loads((staged / "config.json").read_text())
    assert kept["of"] == "nemo_tokenizer/config.json"
    assert json.loads((staged / "generation_config.json").read_text())["of"] == "generation_config.json"


# --- transformers 5 ---------------------------------------------------------------------------------------------------


@pytest.fixture
def of_version_5(tmp_path: Path) -> Path:
    folder = tmp_path / "v5"
    tiny.save_tokenizer(folder)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {name: config[name] for name in ("bos_token", "eos_token") if name in config}
    extra = ["<|im_start|>"]
    written = {"backend": "tokenizers", "is_local": True, "tokenizer_class": "TokenizersBackend", **kept}
    (folder / "tokenizer_config.json").write_text(json.dumps({**written, "extra_special_tokens": extra}))
    return folder


@pytest.mark.slow
def test_a_folder_of_transformers_5_is_read(of_version_5: Path) -> None:
    loaded = tokenizer_loading.load(of_version_5)
    assert type(loaded).__name__ == "PreTrainedTokenizerFast"
    assert loaded.additional_special_tokens == ["<|im_start|>"]
    assert pretrained.read_tokenizer(of_version_5).plain


def test_nemo_gets_it_in_older_words_and_an_export_gives_it_back(of_version_5: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    copied, again, back = tmp_path / "nemo", tmp_path / "again", tmp_path / "back"
    tokenizer_files.copy_for_nemo(of_version_5, copied)
    assert len(AutoTokenizer.from_pretrained(copied)) == len(tokenizer_loading.load(of_version_5))
    tokenizer_files.copy_for_nemo(copied, again)  # as a training does that is given the copy as its tokenizer
    assert names_in(again) == names_in(copied)
    back.mkdir()
    tokenizer_files.copy_back(again, back)
    assert (back / "tokenizer_config.json").read_bytes() == (of_version_5 / "tokenizer_config.json").read_bytes()
    assert not (back / tokenizer_files.ORIGINAL).exists()


# --- the class --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["plain", "albert", "llama-corpus"])
def test_no_class_is_guessed_from_the_path(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place / "x"
    tiny.save_tokenizer(tmp_path / "made")
    folder.mkdir(parents=True)
    shutil.copyfile(tmp_path / "made" / "tokenizer.json", folder / "tokenizer.json")
    for read in (tokenizer_loading.load, pretrained.read_tokenizer):
        with pytest.raises(Refusal, match=r'add "tokenizer_class" to tokenizer_config\.json'):
            read(folder)
    (folder / "config.json").write_text('{"hidden_size": 8}')  # says nothing of the tokenizer
    with pytest.raises(Refusal, match="which class"):
        tokenizer_loading.load(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert type(tokenizer_loading.load(folder)).__name__ == "LlamaTokenizerFast"


# --- SentencePiece ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sentencepiece_folders.CLASSES)
def test_a_sentencepiece_model_alone_is_read(tmp_path: Path, name: str) -> None:
    folder = sentencepiece_folders.save(tmp_path / name, name)
    loaded = tokenizer_loading.load(folder)
    ids = loaded("def add(a, b)", add_special_tokens=False).input_ids
    assert len(ids) > 3 and loaded.decode(ids).replace(" ", "").lower() == "defadd(a,b)"
    counted = pretrained.read_tokenizer(folder).vocab_size
    assert counted == (len(loaded) if name in tokenizer_entries.AS_PIECES else None)


# --- entries that are in no vocabulary: transformers puts them behind it -------------------------------------------------
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
FAR = {"900": {"content": "<far>", "special": True}}
BESIDE: dict[str, dict[str, object]] = {
    "nothing": {"tokenizer_config.json": PLAIN},
    "an end of text": {"tokenizer_config.json": PLAIN | {"eos_token": "<nowhere>"}},
    "an object": {"tokenizer_config.json": PLAIN | {"pad_token": {"content": "<pad>", "__type": "AddedToken"}}},
    "a list of transformers 5": {"tokenizer_config.json": {**PLAIN, "tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>", "<b>"]}},
    "more special tokens": {"tokenizer_config.json": PLAIN | {"additional_special_tokens": ["<a>", "</s>", "<a>"]}},
    "an id far behind": {"tokenizer_config.json": PLAIN | {"added_tokens_decoder": FAR}},
    "a map of an older version": {"tokenizer_config.json": PLAIN, "special_tokens_map.json": {"pad_token": "<pad>"}},
    "a map that nothing reads": {"tokenizer_config.json": PLAIN | {"added_tokens_decoder": FAR}, "special_tokens_map.json": {"pad_token": "<pad>"}},
    "an end in the map of an older version": {"tokenizer_config.json": PLAIN, "special_tokens_map.json": {"eos_token": "<end>"}},
    "an end in a map that nothing reads": {"tokenizer_config.json": PLAIN | {"added_tokens_decoder": FAR}, "special_tokens_map.json": {"eos_token": "<end>"}},
    "added tokens of an older version": {"tokenizer_config.json": PLAIN, "added_tokens.json": {"<a>": 290}},
    "a class with tokens of its own": {"config.json": {"model_type": "llama"}},
    "another such class": {"tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast"}},
}  # fmt: skip


@pytest.mark.parametrize("model", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("name", BESIDE)
def test_entries_are_counted_as_transformers_has_them(name: str, model: str, tmp_path: Path) -> None:
    if model == "tokenizer.json":
        tiny.save_tokenizer(tmp_path)
        (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    else:
        sentencepiece_folders.save(tmp_path, "LlamaTokenizer")
    (tmp_path / "tokenizer_config.json").unlink()
    for file, content in BESIDE[name].items():
        if model == "tokenizer.model" and isinstance(content, dict) and "tokenizer_class" in content:
            content = content | {"tokenizer_class": "LlamaTokenizer"}
        (tmp_path / file).write_text(json.dumps(content))
    loaded = tokenizer_loading.load(tmp_path)
    read = pretrained.read_tokenizer(tmp_path)
    assert read.vocab_size == max(loaded.get_vocab().values()) + 1
    assert read.eos_id in (None, loaded.eos_token_id) and read.eos in (None, loaded.eos_token)


def test_a_damaged_sentencepiece_model_is_refused_in_the_plan(tmp_path: Path) -> None:
    folder = sentencepiece_folders.save(tmp_path / "tok", "LlamaTokenizer")
    (folder / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(Refusal, match=r"tokenizer\.model: is not a SentencePiece model"):
        pretrained.read_tokenizer(folder)


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    folder = tmp_path / "tok"
    tiny.save_tokenizer(folder)
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(Refusal, match=r"tokenizer\.json: is a Git LFS pointer"):
        pretrained.read_tokenizer(folder)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, ["input_ids", "attention_mask"]),
        ({"tokenizer_class": "TokenizersBackend"}, ["input_ids", "attention_mask"]),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids"]}, ["input_ids"]),
        ({"tokenizer_class": "LlamaTokenizerFast"}, None),
        ({}, None),
    ],
)
def test_a_plain_tokenizer_names_its_inputs(given: dict[str, object], named: list[str] | None, tmp_path: Path) -> None:
    """Its class adds token_type_ids otherwise, which no causal model's generate() takes."""
    path = tmp_path / "tokenizer_config.json"
    if given:
        path.write_text(json.dumps(given))
    tokenizer_files.without_token_types(tmp_path)
    found = json.loads(path.read_text()) if path.exists() else {}
    assert found.get("model_input_names") == named and {**found, "model_input_names": 0} == {
        **given,
        "model_input_names": 0,
    }
