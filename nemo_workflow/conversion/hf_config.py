"""config.json, generation_config.json and tokenizer files of an exported Hugging Face folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_workflow.conversion.config_fields import come_back, common_names, complete, to_hf, to_nemo
from nemo_workflow.conversion.hf_folder import read_json
from nemo_workflow.conversion.nemo_folder import NemoReader
from nemo_workflow.models.architecture import TRAINING
from nemo_workflow.models.families import by_model_type, transformers5
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.wrappers import text_part
from nemo_workflow.models.foreign_code import code_named, without_code
from nemo_workflow.models.tokenizer_files import files_of
from nemo_workflow.models.tokenizer_loading import load
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import write_json

CODE_OF_ITS_OWN = ("auto_map",)  # of a model that transformers has no class for: without it nothing loads the export
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Beside:
    """What lies beside a checkpoint's weights: the folder of its tokenizer, and the config.json that the model came with.

    `kept` is the folder that the checkpoint brings, `tokenizer` that one or --hf-tokenizer's.
    """

    def __init__(self, tokenizer: Path | None, kept: Path | None):
        self.tokenizer, self.notes = tokenizer, list[str]()
        self._kept = [folder for folder in (kept, tokenizer) if folder]
        self._said = dict[str, Config]()  # each file is read once

    def kept(self, name: str) -> Path | None:
        """config.json or generation_config.json, as the model came with it."""
        return next((folder / name for folder in self._kept if (folder / name).is_file()), None)

    def origin(self, family: Family) -> Config | None:
        """The config.json that the model came with, if it is of this family."""
        keep = CODE_OF_ITS_OWN if family.reference else ()
        origin = text_part(self.read("config.json", keep))
        if set(keep) & set(origin):
            self.notes.append(
                "config.json auto_map names code that came with the model and is not exported: the model's own .py files belong"
                " beside it"
            )
        came = by_model_type(str(origin.get("model_type")))
        if came is not None and came.trained_as is family:
            return came.as_trained(origin)
        return origin if came is family else None

    def read(self, name: str, keep: tuple[str, ...] = ()) -> Config:
        """Such a file without what names code of the model's own, which is not exported, but for `keep`; {} where there is none."""
        said = self.said(name)
        if found := [key for key in code_named(said) if key not in keep]:
            note = f"{name} {', '.join(found)} is left out: it names code that came with the model and is not exported"
            self.notes += [note] if note not in self.notes else []
        return {**without_code(said), **{key: said[key] for key in keep if key in said}}

    def said(self, name: str) -> Config:
        """Such a file as it is; {} where there is none."""
        if name not in self._said:
            path = self.kept(name)
            self._said[name] = read_json(path) if path else {}
        return self._said[name]

    @cached_property
    def loaded(self) -> Any:
        """transformers' tokenizer; None where there is none, or none that can be loaded, which `notes` then says."""
        if self.tokenizer is None or not files_of(self.tokenizer):
            return None
        try:
            return load(self.tokenizer)
        except Refusal as refusal:
            self.notes.append(f"{refusal.problems[0]}: its files are copied as they are")
            return None

    @property
    def rows(self) -> int:
        """One more than the tokenizer's highest id, added tokens included (its length doesn't count gaps); 0 without one."""
        return int(max(self.loaded.get_vocab().values(), default=-1)) + 1 if self.loaded else 0

    @property
    def special_token_ids(self) -> Config:
        """Its bos, eos and pad ids; None where it has no such token."""
        return {name: getattr(self.loaded, name) for name in SPECIAL_IDS} if self.loaded else {}


@dataclass(frozen=True)
class Exported:
    """`fields` are what NeMo's config says in config.json's words; `origin` the config.json that the model came with, or {}."""

    family: Family
    nemo: Config
    fields: Config
    origin: Config
    notes: list[str]
    beside: Beside

    @property
    def complete(self) -> Config:
        said = {**common_names(transformers5.normal(self.origin, self.family), self.family), **self.fields}
        return complete({**said, "model_type": self.family.model_type}, self.family)

    @property
    def losses(self) -> list[tuple[str, str]]:
        """What the Hugging Face model would compute otherwise than NeMo's: (field, how)."""
        return to_nemo(self.complete, self.family)[1] + self.family.losses_back(self.nemo)


def exported(nemo: Config, family: Family, beside: Beside, reader: NemoReader) -> Exported:
    """The config.json to be written.

    The origin's value stands where both say the same or NeMo's config can't say; what was trained stands otherwise.
    """
    fields, problems = to_hf(nemo, family)
    if problems:
        raise Refusal([f"context/model.yaml: {problem}" for problem in problems])
    origin, notes = beside.origin(family), beside.notes
    if origin is not None and not _same_sizes(fields, complete(origin, family), family):
        origin = None
        notes.append("the config.json beside the tokenizer belongs to another model; NeMo's config is taken")
    nemo = {**nemo, "vocab_size": _rows(nemo.get("vocab_size"), origin, beside, reader)}
    fields["vocab_size"] = nemo["vocab_size"]
    beside.read("generation_config.json")  # for its note
    if origin is None:
        return Exported(family, nemo, fields, {}, notes, beside)
    before = complete(origin, family)
    instead, gone = come_back(nemo, before, family)
    notes += said_otherwise(before, instead, gone)
    if gone:
        words = transformers5.normal(origin, family) if gone & set(transformers5.ROPE) else origin
        origin = {name: value for name, value in words.items() if name not in gone}
    fields = {**_keep_spelling(fields, before, nemo, family), **instead}
    for name in family.training_fields & set(fields):  # the recipe's own, which change nothing that the model computes
        if name in before:
            fields[name] = before[name]
        else:
            del fields[name]
    if "max_position_embeddings" in fields and not family.learned_positions:  # training shortens seq_length
        fields["max_position_embeddings"] = max(before["max_position_embeddings"], fields["max_position_embeddings"])
    return Exported(family, nemo, fields, origin, notes, beside)


def exported_as_computed(nemo: Config, family: Family, beside: Beside, reader: NemoReader) -> Exported:
    """`exported`, as the family that says what NeMo's model computes: training may leave what `family` can't say."""
    config = exported(nemo, family, beside, reader)
    if family.trained_as is None:
        return config
    from nemo_workflow.conversion.compare_tensors import same_bits
    from nemo_workflow.conversion.transforms import unit_rows

    table = reader.read("output_layer.weight", ())[: config.complete["vocab_size"]]
    if same_bits(unit_rows(table), table):
        return config
    beside.notes.append(
        f"the rows of the output layer are no longer of length one, which a {family.architecture} would divide away: written"
        f" as a {family.trained_as.architecture}, which computes what NeMo's model does"
    )
    return exported(nemo, family.trained_as, beside, reader)


def said_otherwise(before: Config, instead: Config, gone: set[str]) -> list[str]:
    """Notes on the fields in which an exported config.json differs from the one that the model came with, since it lost them."""
    notes = [
        f"config.json {name}: {before.get(name)!r} becomes {value!r}, which is what NeMo's model computes"
        for name, value in instead.items()
        if before.get(name) != value
    ]
    return notes + [f"config.json {name} is left out: NeMo's model doesn't have it" for name in sorted(gone)]


def _same_sizes(fields: Config, before: Config, family: Family) -> bool:
    """Whether a config.json is of the model that NeMo's config describes, whatever training changed."""
    names = {rule.hf for rule in family.fields} - {"max_position_embeddings"} - family.training_fields
    return all(before.get(name) == fields[name] for name in names & set(fields) if fields[name] is not None)


def _rows(said: int | None, origin: Config | None, beside: Beside, reader: NemoReader) -> int:
    """The model's vocabulary: what NeMo's config says, else its config.json; at least every id that its tokenizer has.

    What training added to fill up the last ranks lies beyond.
    """
    embedding = reader.tensors.get("embedding.word_embeddings.weight")
    held = embedding.size[0] if embedding else 0
    if not said and origin is not None and origin["vocab_size"] <= held:
        said = int(origin["vocab_size"])
    used = beside.rows
    if said:  # a tokenizer may have tokens that its model never had rows for
        return max(said, min(used, held))
    if not used:
        raise Refusal(
            "context/model.yaml: vocab_size isn't set and the tokenizer isn't in the checkpoint, so the padded rows of the "
            "embedding can't be told from the real ones; --hf-tokenizer names the tokenizer that it was trained with"
        )
    return used


def _keep_spelling(fields: Config, before: Config, nemo: Config, family: Family) -> Config:
    """Leave out the fields that say the same as the origin's in other words, such as rope_scaling's `type` and `rope_type`."""
    said, _ = to_nemo(before, family)
    same = all(_plain(said[name]) == _plain(nemo.get(name)) for name in family.special_nemo - TRAINING if name in said)
    return {name: value for name, value in fields.items() if not (same and name in family.special_fields)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def write_config(folder: Path, config: Exported, dtype: str) -> None:
    """Write config.json and generation_config.json."""
    family, origin = config.family, config.origin
    if origin:
        known = complete(origin, family)
        changed = {name: value for name, value in config.fields.items() if known.get(name) != value}
        written = transformers5.respelled(spelled(changed, family), origin, family)
        for key in {"torch_dtype", "dtype"} & set(written) or {"torch_dtype"}:
            written[key] = dtype
        written.setdefault("architectures", [family.architecture])
        written |= {common: written[own] for own, common in family.renamed.items() if {own, common} <= set(written)}
    elif family.reference:  # transformers has no class that knows its defaults
        named = {"architectures": [family.architecture], "model_type": family.model_type, "torch_dtype": dtype}
        written = {**named, **spelled(config.fields, family), **config.beside.special_token_ids}
    else:
        from transformers import AutoConfig

        built = AutoConfig.for_model(
            family.model_type, **spelled(config.fields, family), **config.beside.special_token_ids
        )
        written = {"architectures": [family.architecture], **built.to_diff_dict(), "torch_dtype": dtype}
    write_json(folder / "config.json", written)
    _write_generation(folder, written, config.beside)


def spelled(fields: Config, family: Family) -> Config:
    """Fields under the names that this family's config.json has for them."""
    own = {common: name for name, common in family.renamed.items()}
    return {own.get(name, name): value for name, value in fields.items()}


def _write_generation(folder: Path, config: Config, beside: Beside) -> None:
    from transformers import GenerationConfig

    came = beside.kept("generation_config.json")
    if came is not None:
        kept = beside.read(came.name)
        if kept == beside.said(came.name):
            shutil.copyfile(came, folder / came.name)
        else:
            write_json(folder / came.name, kept)
        return
    ids = {name: config.get(name) for name in SPECIAL_IDS}
    GenerationConfig(**{name: value for name, value in ids.items() if value is not None}).save_pretrained(folder)
