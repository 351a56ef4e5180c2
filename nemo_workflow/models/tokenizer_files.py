"""Which files of a folder a tokenizer is read from, and copies of them.

A folder from elsewhere is taken for data: its code is never copied or run, and a link, a pipe or a file of a size that
no tokenizer has is refused before anything reads it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Refusal

# The one list of a tokenizer's files, as patterns of names: no weights, no pickles, no code.
# Those that decide which id a text has, of every tokenizer that transformers 4.57 has (a test holds the list against it).
VOCABULARY = (
    "tokenizer.json", "tokenizer.*.json", "*.model", "tokenizer.model.*", "*.spm", "*.tiktoken", "tekken.json",
    "vocab*.json", "vocab*.txt", "vocab.bpe", "merges.txt", "bpe.codes", "dict.txt", "encoder.json", "*_vocab.json",
    "emoji.json", "normalizer.json", "byte_maps.json", "word_shape.json", "word_pronunciation.json",
    "prophetnet.tokenizer", "artists.json", "genres.json", "lyrics.json",
)  # fmt: skip
NO_VOCABULARY = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")  # the classes that read none of them
PAIR = ("vocab.json", "merges.txt")  # of GPT-2's kind of tokenizer, which reads both
# the classes that read the first alone
VOCABULARY_ALONE = ("MgpstrTokenizer", "VitsTokenizer", "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer")
CONFIG = "tokenizer_config.json"
ORIGINAL = f"{CONFIG}.original"  # of a copy for NeMo whose tokenizer_config.json had to be put into older words
TEMPLATES = "additional_chat_templates"  # a folder
SETTINGS = (CONFIG, ORIGINAL, "special_tokens_map.json", "added_tokens.json", "chat_template*.json", "chat_template*.jinja",
            f"{TEMPLATES}/*.jinja", f"{TEMPLATES}.*.jinja")  # fmt: skip
TOKENIZER = (*VOCABULARY, *SETTINGS)
KEPT = ("config.json", "generation_config.json")  # travel with the tokenizer, so that an export gives back what came in
LARGEST = 256 << 20  # bytes of a file; the largest tokenizer.json we know of has 35 MB
LARGEST_ID = 1 << 24
POINTER = b"version https://git-lfs.github.com/spec/"  # how a Git LFS pointer begins, in place of a file's content


def readable(path: Path) -> bool:
    """Whether a file of a model's folder is there; raises Refusal for one that no honest folder holds."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise Refusal(f"{path}: a broken symlink; copy the file itself into the folder") from None
        return False
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {error.strerror}") from None
    if path.is_symlink() and not _inside(path):
        raise Refusal(f"{path}: a symlink out of the folder; copy the file itself into the folder (cp -L)")
    if not stat.S_ISREG(status.st_mode):
        raise Refusal(f"{path}: is not a regular file; put the tokenizer's own file there, or remove it")
    if status.st_size > LARGEST:
        raise Refusal(
            f"{path}: has {human_bytes(status.st_size)}; no file of a tokenizer has more than {human_bytes(LARGEST)}"
        )
    check_no_pointer(path)
    return True


def check_no_pointer(path: Path) -> None:
    """Raise Refusal for a Git LFS pointer, which a clone without Git LFS leaves in place of every large file."""
    try:
        with path.open("rb") as stream:
            start = stream.read(len(POINTER))
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {error.strerror}") from None
    if start == POINTER:
        raise Refusal(
            f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or download it"
        )


def json_of(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file; raises Refusal for anything else."""
    if not readable(path):
        return {}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {error.strerror}") from None
    try:
        loaded = _parse(data)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path}: not JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise Refusal(f"{path}: expected a JSON object")
    return loaded


def _parse(data: bytes) -> Any:
    """A tokenizer.json has 10 MB: orjson takes a third of the time."""
    if len(data) < 100_000:
        return json.loads(data)
    try:
        import orjson
    except ImportError:
        return json.loads(data)
    return orjson.loads(data)


def _inside(link: Path) -> bool:
    """Whether a link stays in its folder, or leads to the blobs of the Hub's cache, where a snapshot's files lie."""
    folder, target = link.parent.resolve(), link.resolve()
    if target.is_relative_to(folder):
        return True
    return folder.parent.name == "snapshots" and target.parent == folder.parents[1] / "blobs"


def check_ids(folder: Path) -> None:
    """Raise Refusal for an id past what any tokenizer has: the tokenizers library takes memory for all ids below it."""
    with well_formed(folder):
        content = json_of(folder / "tokenizer.json")
        words = content.get("model", {}).get("vocab")
        ids = list(words.values()) if isinstance(words, dict) else []
        ids += [entry["id"] for entry in content.get("added_tokens") or []]
        ids += [int(identity) for identity in json_of(folder / CONFIG).get("added_tokens_decoder") or {}]
        ids += json_of(folder / "added_tokens.json").values()
        strange = [identity for identity in ids if type(identity) is not int or not 0 <= identity < LARGEST_ID]
    if strange:
        raise Refusal(
            f"{folder}: a token has the id {str(strange[0])[:60]}; a whole number below {LARGEST_ID} is expected"
        )


@contextlib.contextmanager
def well_formed(folder: Path) -> Iterator[None]:
    """Whatever is stumbled over in a tokenizer's files is a refusal that names the folder."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Refusal(
            f"{folder}: tokenizer.json or {CONFIG} is not of the form that transformers writes ({str(error)[:200]})"
        ) from None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has all that a tokenizer needs; one whose tokens are bytes or characters needs no vocabulary."""
    if files_of(folder, VOCABULARY):
        return not half_of(folder)
    return json_of(folder / CONFIG).get("tokenizer_class") in NO_VOCABULARY


def half_of(folder: Path) -> str:
    """'vocab.json without merges.txt' of a folder that holds one of the two and no other vocabulary, as an interrupted download may; else ''.

    Of a class that reads one alone, or brings code of its own, it is the whole.
    """
    found = [path.name for path in files_of(folder, VOCABULARY)]
    if len(found) != 1 or found[0] not in PAIR:
        return ""
    config = json_of(folder / CONFIG)
    if config.get("tokenizer_class") in VOCABULARY_ALONE or config.get("auto_map"):
        return ""
    return f"{found[0]} without {PAIR[1 - PAIR.index(found[0])]}"


def check_has_tokenizer(folder: Path) -> None:
    """Raise Refusal for a folder without a vocabulary, or with the half of one."""
    if half := half_of(folder):
        raise Refusal(
            f"{folder}: {half}, and the tokenizer is read from both; copy the other there too, or tokenizer.json"
        )
    if not files_of(folder, VOCABULARY):
        raise Refusal(f"{folder}: no tokenizer files in it, such as tokenizer.json; copy them there") from None


def files_of(folder: Path, patterns: tuple[str, ...] = TOKENIZER) -> list[Path]:
    """The files of a folder that its tokenizer is made of; raises Refusal for one that no honest folder holds."""
    templates = folder / TEMPLATES
    there = [*folder.iterdir(), *(templates.iterdir() if templates.is_dir() else ())]
    found = (
        path
        for path in there
        if any(fnmatchcase(path.relative_to(folder).as_posix(), pattern) for pattern in patterns) and not _ignored(path)
    )
    return sorted(path for path in found if readable(path))


def _ignored(path: Path) -> bool:
    """A hidden file, a checkpoint's index, and a folder that happens to have such a name."""
    hidden = path.name.startswith(".") or path.name.endswith(".index.json")
    return hidden or (path.is_dir() and not path.is_symlink())


def copy_for_nemo(source: Path, target: Path) -> list[Path]:
    """Copy a tokenizer, config.json and generation_config.json into the new folder `target`; returns what was copied.

    The copy is flat, for NeMo copies the folder's files and fails on a folder in it, and its tokenizer_config.json is in
    words that transformers 4.57 knows; `copy_back` undoes both.
    """
    target.mkdir(parents=True)
    files = files_of(source, (*TOKENIZER, *KEPT))
    for file in files:
        shutil.copyfile(file, target / ".".join(file.relative_to(source).parts))
    config = json_of(target / CONFIG)
    changed = in_older_words(config)
    if changed != config:
        if not (target / ORIGINAL).exists():
            (target / CONFIG).rename(target / ORIGINAL)
        (target / CONFIG).write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def copy_back(copied: Path, target: Path) -> list[str]:
    """Copy the tokenizer of such a copy, or of any folder, into the folder `target`, as it came; returns the files' names."""
    files = {path.relative_to(copied).as_posix(): path for path in files_of(copied)}
    if ORIGINAL in files:
        files[CONFIG] = files.pop(ORIGINAL)
    prefix = f"{TEMPLATES}."
    files = {
        f"{TEMPLATES}/{name.removeprefix(prefix)}" if name.startswith(prefix) else name: path
        for name, path in files.items()
    }
    for name, path in files.items():
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target / name)
    return sorted(files)


def without_token_types(folder: Path) -> None:
    """Name a plain tokenizer's inputs where nothing does: its class adds token_type_ids, and generate() takes none.

    No causal language model of transformers has token types, so that `model.generate(**tokenizer(text))` would fail.
    """
    path = folder / CONFIG
    config = json_of(path)
    plain = config.get("tokenizer_class") in ("PreTrainedTokenizerFast", *BACKENDS)
    if plain and "model_input_names" not in config:
        config["model_input_names"] = ["input_ids", "attention_mask"]
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def without_own_code(folder: Path) -> bool:
    """Take the code that a tokenizer_config.json names (auto_map) out of it; for a tokenizer that loads without. Whether it did."""
    path = folder / CONFIG
    config = json_of(path)
    if not config.pop("auto_map", None):
        return False
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


# transformers 5's names of what 4.57 has under another
BACKENDS = {"TokenizersBackend": "PreTrainedTokenizerFast"}


def in_older_words(config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json of transformers 5 in the words of 4.57; any other as it is."""
    changed = dict(config)
    name = changed.get("tokenizer_class")
    if isinstance(name, str) and name in BACKENDS:
        changed["tokenizer_class"] = BACKENDS[name]
    if isinstance(changed.get("extra_special_tokens"), list):
        extra = changed.pop("extra_special_tokens")
        before = changed.get("additional_special_tokens")
        before = before if isinstance(before, list) else []
        if extra:
            changed["additional_special_tokens"] = [*before, *(token for token in extra if token not in before)]
    return changed


def check_class_named(folder: Path, own_code: bool = False) -> None:
    """Raise Refusal where a folder's files don't say which class its tokenizer has; `own_code` may say it, if that may run.

    transformers 4.57 then looks for the name of a model in the path, and takes that model's class and special tokens.
    """
    config, model = json_of(folder / CONFIG), json_of(folder / "config.json")
    named = config.get("tokenizer_class") or model.get("tokenizer_class") or model.get("model_type")
    if not (named or (own_code and config.get("auto_map"))):
        raise Refusal(
            f"{folder}: its files don't say which class its tokenizer has, and a class guessed from the folder's name may"
            f" add tokens of its own; {_class_to_name(folder)}"
        )


# a tokenizer's file -> the class of transformers that reads it, whatever model it is of
CLASSES = {
    "tokenizer.json": "PreTrainedTokenizerFast", "tokenizer.model": "LlamaTokenizer", "vocab.json": "GPT2Tokenizer", "vocab.txt": "BertTokenizer",
}  # fmt: skip


def _class_to_name(folder: Path) -> str:
    found = next((name for name in CLASSES if (folder / name).is_file()), None)
    if found is None:
        return f"take the whole folder that it comes with, whose {CONFIG} names it"
    return (
        f'add "tokenizer_class" to {CONFIG} (make it if need be): {{"tokenizer_class": "{CLASSES[found]}", "eos_token": …}}'
        f" suits most {found}"
    )
