"""config.json, generation_config.json and tokenizer files of an exported Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from nemo_workflow.conversion.context import KEPT
from nemo_workflow.conversion.family import Config, Family
from nemo_workflow.conversion.fields import complete, to_hf, to_nemo
from nemo_workflow.conversion.hf_folder import read_json, tokenizer_files
from nemo_workflow.errors import Refusal
from nemo_workflow.files import write_json


def origin_config(tokenizer: Path | None, family: Family) -> Config | None:
    """The config.json that the model came with, if it travelled with the tokenizer."""
    path = tokenizer / "config.json" if tokenizer else None
    if path is None or not path.exists():
        return None
    origin = read_json(path)
    return origin if origin.get("model_type") == family.model_type else None


def export_config(nemo: Config, family: Family, origin: Config | None) -> tuple[Config, Config, list[str]]:
    """(config.json fields that NeMo's config gives, the origin's fields that they differ from, notes).

    The origin's value stands where both say the same or NeMo's config can't say; what was trained stands otherwise.
    """
    fields, problems = to_hf(nemo, family)
    if problems:
        raise Refusal([f"context/model.yaml: {problem}" for problem in problems])
    notes: list[str] = []
    if origin is not None:
        before = complete(origin, family)
        fields = _keep_spelling(fields, before, nemo, family)
        changed = [name for name, value in fields.items() if before.get(name) != value]
        shape_fields = {rule.hf for rule in family.fields} - {
            "max_position_embeddings",
            "initializer_range",
            "attention_dropout",
        }
        if [name for name in changed if name in shape_fields]:
            return fields, {}, ["the config.json beside the tokenizer belongs to another model; NeMo's config is taken"]
        if "max_position_embeddings" in changed:
            fields["max_position_embeddings"] = max(
                before["max_position_embeddings"], fields["max_position_embeddings"]
            )
        for name in changed:
            if name in ("initializer_range", "attention_dropout"):
                fields[name] = before[name]
        return fields, origin, notes
    return fields, {}, notes


def _keep_spelling(fields: Config, before: Config, nemo: Config, family: Family) -> Config:
    """Leave out the fields that say the same as the origin's in other words, such as rope_scaling's `type` and `rope_type`."""
    said, _ = to_nemo(before, family)
    same = all(_plain(said[name]) == _plain(nemo.get(name)) for name in family.special_nemo if name in said)
    return {name: value for name, value in fields.items() if not (same and name in family.special_fields)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def write_config(
    folder: Path, family: Family, fields: Config, origin: Config, dtype: str, tokenizer: Path | None
) -> Config:
    """Write config.json and generation_config.json; returns config.json."""
    from transformers import AutoConfig, GenerationConfig

    special = special_token_ids(tokenizer)
    if origin:
        config = {**origin}
        known = complete(origin, family)
        config |= {name: value for name, value in fields.items() if known.get(name) != value}
        for key in ("torch_dtype", "dtype"):
            if key in config:
                config[key] = dtype
        config.setdefault("architectures", [family.architecture])
        if "torch_dtype" not in config and "dtype" not in config:
            config["torch_dtype"] = dtype
    else:
        built = AutoConfig.for_model(family.model_type, **fields, **special)
        config = {"architectures": [family.architecture], **built.to_diff_dict(), "torch_dtype": dtype}
    write_json(folder / "config.json", config)
    return _write_generation(folder, config, GenerationConfig, tokenizer)


def _write_generation(folder: Path, config: Config, generation_class: Any, tokenizer: Path | None) -> Config:
    came = tokenizer / "generation_config.json" if tokenizer else None
    if came is not None and came.exists():
        shutil.copyfile(came, folder / came.name)
    else:
        ids = {name: config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        generation_class(**{name: value for name, value in ids.items() if value is not None}).save_pretrained(folder)
    return config


def special_token_ids(tokenizer: Path | None) -> Config:
    """bos, eos and pad ids of a tokenizer folder; None where it has no such token."""
    if tokenizer is None or not tokenizer_files(tokenizer):
        return {}
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    return {name: getattr(loaded, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def vocabulary_size(nemo: Config, tokenizer: Path | None) -> int:
    """The model's own number of rows: what the config says, and for a model trained without that, its tokenizer's length."""
    if nemo.get("vocab_size"):
        return int(nemo["vocab_size"])
    if tokenizer is None:
        raise Refusal(
            "context/model.yaml: vocab_size isn't set and the tokenizer isn't in the checkpoint, so the padded rows of the "
            "embedding can't be told from the real ones; --hf-tokenizer names the tokenizer that it was trained with"
        )
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False))


def copy_tokenizer(folder: Path, tokenizer: Path | None) -> list[str]:
    """Copy the tokenizer's files as they are; returns their names."""
    files = tokenizer_files(tokenizer) if tokenizer else []
    for path in files:
        shutil.copyfile(path, folder / path.name)
    return [path.name for path in files if path.name not in KEPT]
