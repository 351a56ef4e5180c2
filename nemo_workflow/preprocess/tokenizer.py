"""Which tokenizer: a folder or a Hub id -> what AutoTokenizer would make of it. Imports no transformers by itself.

transformers takes a second of CPU to import and changes tokenizer.json as it loads it (added tokens, the tokens around a
text). For the classes that pretraining models use, those changes are made here on a `tokenizers.Tokenizer`; every other
folder is loaded by transformers itself. Written for transformers 4.57 (tests compare the two).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_workflow.models import hub, tokenizer_identity
from nemo_workflow.models.pretrained import is_hub_id, no_hub_id
from nemo_workflow.models.tokenizer_files import (
    CONFIG,
    TOKENIZER,
    VOCABULARY,
    check_ids,
    files_of,
    in_older_words,
    json_of,
    well_formed,
)
from nemo_workflow.models.tokenizer_loading import first_line, load
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.folder_kinds import TOKENIZERS, meant

HUB_FILES = (*TOKENIZER, "config.json")

# Tokens that a class has by default (its __init__ in transformers 4.57).
_END = "<|endoftext|>"
_DEFAULTS: dict[str, dict[str, str]] = {
    "PreTrainedTokenizerFast": {},
    "GPT2Tokenizer": {"unk_token": _END, "bos_token": _END, "eos_token": _END},
    "GPTNeoXTokenizer": {"unk_token": _END, "bos_token": _END, "eos_token": _END},
    "Qwen2Tokenizer": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GemmaTokenizer": {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
}
# Classes that replace the post-processor, and whether they put a begin-of-sequence token first by default.
_ADDS_BOS = {"LlamaTokenizer": True, "GemmaTokenizer": True, "GPTNeoXTokenizer": False}
_SPECIAL = ("unk_token", "bos_token", "eos_token", "pad_token", "sep_token", "cls_token", "mask_token")

# What instruction-tuned models name as eos_token, and what their base models end a document with.
ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endofturn|>", "<|eot|>")
ENDS_OF_TEXT = ("<|end_of_text|>", "<|endoftext|>", "<eos>", "</s>")


@dataclass(frozen=True)
class TokenizerSpec:
    """A tokenizer as the workers need it.

    `backend` is its tokenizer.json as transformers would have it, None where the file stands as it is; `prefix` and
    `suffix` are the ids that the tokenizer puts around every text; `vocab_size` is len(AutoTokenizer).
    """

    name: str
    folder: Path
    fast: bool
    eod: int | None
    eod_token: str | None
    vocab_size: int
    largest_id: int
    sha256: str  # of its files' bytes
    content: str = ""  # of what they say
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    split_special: bool = False
    trust_remote_code: bool = False
    added: tuple[str, ...] = ()
    own_end: str | None = None  # the tokenizer's eos_token, from which --eod-token may differ
    unknown: int | None = None  # the id of what it has no entry for; None where that is cut into bytes
    base_end: str | None = None  # the base model's end of text, where `eod_token` is the end of a chat's turn
    backend: str | None = field(default=None, repr=False)

    def read_json(self) -> str:
        """The tokenizer.json that gives this tokenizer's ids."""
        return self.backend or (self.folder / "tokenizer.json").read_text(encoding="utf-8")

    @property
    def dtype(self) -> str:
        """Of a .bin file: megatron-core's optimal_dtype of the vocabulary size; wider where an id would not fit."""
        return "uint16" if self.vocab_size < 65500 and self.largest_id < 65536 else "int32"


def resolve_folder(name: str, trust_remote_code: bool = False) -> Path:
    """The local folder of `name`: a folder, a tokenizer.json, or a Hub id (downloaded to the Hub's cache)."""
    path = Path(name).expanduser()
    if path.is_file() and any(path.match(pattern) for pattern in VOCABULARY):
        path = path.parent
    if path.is_dir():
        files_of(path)  # refuses what no honest folder holds
        return path.absolute()
    if not is_hub_id(name):
        raise Refusal(no_hub_id("--tokenizer", name))
    return hub.fetch(name, "--tokenizer", [*HUB_FILES, *(["*.py"] if trust_remote_code else [])])


def examine(name: str, folder: Path, eod_token: str | None, trust_remote_code: bool) -> tuple[TokenizerSpec, Any]:
    """The spec and an object with `encode_ids(text, special)`: the reference. Takes 100s of MB: run it in a child."""
    with well_formed(folder):
        reference = _read_light(folder)
    if reference is None:
        if not files_of(folder):
            raise Refusal(
                f"--tokenizer {name}: no tokenizer.json or other tokenizer files in {folder}{meant(folder, TOKENIZERS, '--tokenizer')}"
            )
        reference = _Reference.from_transformers(load_with_transformers(folder, trust_remote_code))
    token = eod_token or reference.eos_token
    vocabulary = reference.vocabulary()
    eod = vocabulary.get(token) if token is not None else None
    if eod_token is not None and eod is None:
        hint = "; give the token itself, not its id" if eod_token.isdecimal() else ""
        raise Refusal(f"--eod-token {eod_token}: not in the vocabulary of {name}{hint}")
    prefix, suffix = reference.around_text()
    unknown = reference.unknown_id(vocabulary)
    spec = TokenizerSpec(
        name=name,
        folder=folder,
        fast=reference.fast,
        eod=eod,
        eod_token=token,
        own_end=reference.eos_token,
        vocab_size=reference.size(),
        largest_id=max(vocabulary.values()),
        sha256=tokenizer_identity.bytes_hash(folder),
        content=tokenizer_identity.content_hash(folder),
        prefix=prefix,
        suffix=suffix,
        split_special=reference.split_special,
        trust_remote_code=trust_remote_code,
        added=tuple(reference.added),
        unknown=None if unknown == eod else unknown,
        base_end=next((base for base in ENDS_OF_TEXT if token in ENDS_OF_TURN and base in vocabulary), None),
        backend=reference.backend,
    )
    return spec, reference


class _Reference:
    """The Hugging Face tokenizer, whatever its kind."""

    def __init__(self, tokenizer: Any, fast: bool, eos_token: str | None, split_special: bool, backend: str | None):
        self.tokenizer, self.fast, self.eos_token = tokenizer, fast, eos_token
        self.split_special, self.backend = split_special, backend
        if fast:
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = split_special
            self.added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        else:
            self.added = list(tokenizer.added_tokens_encoder)

    @staticmethod
    def from_transformers(loaded: Any) -> _Reference:
        split_special = bool(getattr(loaded, "split_special_tokens", False))
        if not loaded.is_fast:
            return _Reference(loaded, False, loaded.eos_token, split_special, None)
        backend = loaded.backend_tokenizer
        return _Reference(backend, True, loaded.eos_token, split_special, backend.to_str())

    def vocabulary(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    def unknown_id(self, vocabulary: dict[str, int]) -> int | None:
        """The id that stands for whatever has no entry."""
        if not self.fast:
            return self.tokenizer.unk_token_id
        model = self.tokenizer.model
        if hasattr(model, "unk_token"):
            return vocabulary.get(model.unk_token)
        # Unigram alone keeps it to itself; for others this would be 0.3 s of a large vocabulary
        return json.loads(self.tokenizer.to_str())["model"].get("unk_id")

    def size(self) -> int:
        """len(AutoTokenizer)."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True) if self.fast else len(self.tokenizer)

    def encode_ids(self, text: str, special: bool) -> list[int]:
        encoding = self.tokenizer.encode(text, add_special_tokens=special)
        return encoding.ids if self.fast else encoding

    def around_text(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and after every text. A post-processor adds the same ones whatever the text."""
        for probe in ("x", "1", "a b"):
            bare, full = self.encode_ids(probe, False), self.encode_ids(probe, True)
            for at in range(len(full) - len(bare) + 1):
                if bare and full[at : at + len(bare)] == bare:
                    return tuple(full[:at]), tuple(full[at + len(bare) :])
        return (), ()


def load_with_transformers(folder: Path, trust_remote_code: bool) -> Any:
    """transformers' tokenizer without torch; raises Refusal."""
    os.environ.update(USE_TORCH="0", USE_TF="0", USE_FLAX="0", TRANSFORMERS_VERBOSITY="error")
    try:
        return load(folder, trust_remote_code)
    except Refusal as refusal:
        own_code = json_of(folder / CONFIG).get("auto_map") and not trust_remote_code
        hint = " (--trust-remote-code runs it)" if own_code and "--trust-remote-code" not in str(refusal) else ""
        raise Refusal([f"--tokenizer {problem}{hint}" for problem in refusal.problems]) from None


def _read_light(folder: Path) -> _Reference | None:
    """What PreTrainedTokenizerFast.__init__ makes of the folder, or None where only transformers itself can tell."""
    config = in_older_words(json_of(folder / CONFIG))
    name = str(config.get("tokenizer_class", ""))
    name = name if name in _DEFAULTS else name.removesuffix("Fast")
    unusual = ("auto_map", "fast_tokenizer_files", "extra_special_tokens", "from_slow")
    if name not in _DEFAULTS or not (folder / "tokenizer.json").is_file() or any(config.get(key) for key in unusual):
        return None
    if "added_tokens_decoder" not in config:
        if (folder / "added_tokens.json").exists():
            return None
        config |= json_of(folder / "special_tokens_map.json")
    prefix_space = config.get("add_prefix_space", None if name == "LlamaTokenizer" else False)
    if name == "LlamaTokenizer" and prefix_space is not None:  # converts from the slow tokenizer
        return None
    config = _DEFAULTS[name] | config

    check_ids(folder)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise Refusal(f"{folder / 'tokenizer.json'}: not a tokenizer: {first_line(error)}") from None
    if _lacks_tokens(tokenizer, config) or _wants_prefix_space(tokenizer, prefix_space):
        return None
    backend = None
    if name in _ADDS_BOS and _set_template(tokenizer, config, _ADDS_BOS[name]):
        backend = tokenizer.to_str()
    return _Reference(
        tokenizer, True, _content(config.get("eos_token")), bool(config.get("split_special_tokens")), backend
    )


def _lacks_tokens(tokenizer: Any, config: dict[str, Any]) -> bool:
    """Whether transformers would add tokens to the ones in tokenizer.json."""
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    added = {tuple(getattr(token, flag) for flag in flags) for token in tokenizer.get_added_tokens_decoder().values()}
    for token in config.get("added_tokens_decoder", {}).values():
        if tuple(token.get(flag, flag == "normalized" and not token.get("special")) for flag in flags) not in added:
            return True
    named = [config.get(key) for key in _SPECIAL] + list(config.get("additional_special_tokens") or [])
    contents = {token[0] for token in added}
    return any(_content(token) not in contents for token in named if token is not None)


def _wants_prefix_space(tokenizer: Any, wanted: bool | None) -> bool:
    """Whether transformers would change the pre-tokenizer's add_prefix_space."""
    if tokenizer.pre_tokenizer is None:
        return False
    state = json.loads(tokenizer.pre_tokenizer.__getstate__())
    return state.get("add_prefix_space", wanted) != wanted


def _set_template(tokenizer: Any, config: dict[str, Any], bos_by_default: bool) -> bool:
    """Put begin and end tokens around a text as LlamaTokenizerFast.update_post_processor does; whether that changed it."""
    from tokenizers import processors

    single, special = "$A:0", []
    for key, default in (("bos", bos_by_default), ("eos", False)):
        if config.get(f"add_{key}_token", default):
            token = _content(config.get(f"{key}_token"))
            if token is None:
                raise Refusal(f"tokenizer_config.json: add_{key}_token is true, but there is no {key}_token")
            single = f"{token}:0 {single}" if key == "bos" else f"{single} {token}:0"
            special.append((token, tokenizer.token_to_id(token)))
    before = tokenizer.post_processor.__getstate__() if tokenizer.post_processor else None
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return tokenizer.post_processor.__getstate__() != before


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
