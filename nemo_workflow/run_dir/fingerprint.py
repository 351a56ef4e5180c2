"""What a run trains on and with, so that a resumed run is still the same run.

Every checkpoint's manifest holds the identity of the run that wrote it. A start compares its own with that of the
checkpoint it would continue from: some things may change freely, some change and are said, some are refused unless
--allow-change names them. The table for people is docs/resume.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import xxhash

from nemo_workflow.config.optimizer_states import FIELD
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.models import catalog
from nemo_workflow.models.pretrained import hf_folder
from nemo_workflow.models.tokenizer_entries import end_of_document
from nemo_workflow.models.tokenizer_files import CONFIG, files_of, json_of
from nemo_workflow.models.tokenizer_identity import content_hash
from nemo_workflow.utils.console import and_more, counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import from_here_if_below

DIGEST = re.compile(r"(\d+-)?[0-9a-f]{32}")  # nobody can tell two of them apart
WHOLE = 1 << 30  # files up to this size are hashed whole
UNSET = "unset"  # of a flag
PIECES, PIECE = 1024, 1 << 18  # larger ones in as many evenly spaced pieces of so many bytes

# what --allow-change may name -> what it is
REFUSED = {
    "dataset": "the .bin/.idx files or their weights",
    "split": "--split",
    "seq-length": "--seq-length",
    "seed": "--seed",
    "tokenizer": "the tokenizer of --hf-model-id",
}
NEVER = {
    "model": "weights fit no other model; start another --experiment",
    "branch": "put --decay-from back, or start another --experiment",
    "optimizer": "put --optimizer, --precision and --optimizer-precision back, or start another --experiment: its state fits no others",
}
SCHEDULE = (
    "lr",
    "min_lr",
    "warmup_steps",
    "constant_steps",
    "kind",
    "decay_steps",
    "decay_style",
)  # fields of Schedule
TOLD = {
    "max-steps": "--max-steps",
    "global-batch-size": "--global-batch-size",
    "schedule": "flags of the learning rate and the optimizer",
    "layout": "the parallel layout",
}


def identity_of(plan: Plan) -> dict[str, Any]:
    """The parts of a run that a resumed run may not change in silence, as plain JSON values. Reads the data's files."""
    settings, public = plan.settings, plan.settings.public()
    layout = plan.layout
    return {
        "dataset": [
            {"bin": digest(f"{source.pair.prefix}.bin"), "idx": digest(f"{source.pair.prefix}.idx"),
             "weight": round(source.weight, 9)}
            for source in plan.sources
        ],
        "split": settings.split,
        "seq-length": plan.seq_length,
        "seed": settings.seed,
        "tokenizer": tokenizer_digest(settings.hf_model_id),
        "optimizer": {name: public[name] or value for name, value in recipe_defaults(plan).items()},
        "model": {"name": plan.model_name, **{k: v for k, v in sorted(plan.sizes.items()) if isinstance(v, int | str)}},
        "branch": plan.branch.as_identity() if plan.branch else None,
        "max-steps": plan.schedule.max_steps,
        "global-batch-size": settings.global_batch_size,
        "schedule": {
            **{name: getattr(plan.schedule, name) for name in SCHEDULE},
            **{name: public[name] for name in ("weight_decay", "adam_beta1", "adam_beta2", "clip_grad")},
        },
        "layout": {
            "ranks": layout.ranks, "tensor": layout.tensor, "pipeline": layout.pipeline,
            "virtual pipeline": layout.virtual_pipeline, "context": layout.context, "expert": layout.expert,
            "first stage": _counted_or_unset(layout.first_stage_layers), "last stage": _counted_or_unset(layout.last_stage_layers),
        },
    }  # fmt: skip


def _counted_or_unset(layers: int | None) -> str:
    """A stage's layers in words."""
    return counted(layers, "layer") if layers else UNSET


def recipe_defaults(plan: Plan) -> dict[str, Any]:
    """What --optimizer, --precision and --optimizer-precision are when they are left out."""
    recipe = catalog.find(plan.model_name)
    return {
        "optimizer": recipe.fields["optim.config.optimizer"],
        "precision": recipe.precision["precision"],
        "optimizer_precision": "bf16" if recipe.fields[FIELD] else "fp32",
    }


def digest(path: str | Path) -> str:
    """Size and XXH3 of a file's content: all of it up to a gibibyte, else 1024 evenly spaced pieces of 256 KiB."""
    path = Path(path)
    hasher = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as stream:
        size = path.stat().st_size
        if size <= WHOLE:
            while block := stream.read(1 << 22):
                hasher.update(block)
        else:
            for piece in range(PIECES):
                stream.seek(piece * (size - PIECE) // (PIECES - 1))
                hasher.update(stream.read(PIECE))
    return f"{size}-{hasher.hexdigest()}"


def tokenizer_digest(hf_model_id: str) -> str:
    """Hash of what decides a tokenizer's ids and its end of a document; the id of a model on the Hub that isn't here."""
    folder = hf_folder(hf_model_id)
    if folder is None:
        return hf_model_id
    end = end_of_document(folder, json_of(folder / CONFIG))
    return xxhash.xxh3_128_hexdigest(f"{content_hash(folder)}\0{end}".encode())


def second_tokenizer_digest(hf_model_id: str) -> str:
    """What the second version wrote for an unchanged tokenizer: the hash of its files' bytes, in a folder or in the Hub's cache."""
    folder = hf_folder(hf_model_id)
    if folder is None:
        return hf_model_id
    hasher = xxhash.xxh3_128()
    for path in files_of(folder):
        hasher.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


# what the first version knew of a tokenizer's folder, in the order in which it hashed them
FIRST_VERSION = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt",
    "spiece.model", "sentencepiece.bpe.model", "added_tokens.json",
)  # fmt: skip


def in_todays_words(then: dict[str, Any], now: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """An older version's identity of a run as this version would write it: it wrote down less, and hashed fewer files."""
    then = {"branch": None} | then
    # nothing for what was left out, no sizes that a checkpoint leaves open
    for name, defaults in (("optimizer", recipe_defaults(plan)), ("model", now["model"])):
        if name in then:
            then[name] = defaults | {key: value for key, value in then[name].items() if value is not None}
    if "schedule" in then:
        defaults = {field.name: field.default for field in fields(Schedule) if field.name in SCHEDULE}
        missing = {name: None if default is MISSING else default for name, default in defaults.items()}
        then["schedule"] = dict.fromkeys(now["schedule"]) | missing | then["schedule"]
    if "layout" in then:
        then["layout"] = {"first stage": UNSET, "last stage": UNSET} | then["layout"]
    named = plan.settings.hf_model_id
    if then.get("tokenizer") in (first_tokenizer_digest(named), second_tokenizer_digest(named)):
        then["tokenizer"] = now["tokenizer"]
    return then


def first_tokenizer_digest(hf_model_id: str) -> str:
    """What the first version wrote for an unchanged tokenizer: the hash of the files that it knew, or the id on the Hub."""
    folder = Path(hf_model_id).expanduser()
    if not folder.is_dir():
        return hf_model_id
    hasher = xxhash.xxh3_128()
    for name in (*FIRST_VERSION, *sorted(path.name for path in folder.glob("*.tiktoken"))):
        if (folder / name).is_file():
            hasher.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return hasher.hexdigest()


@dataclass(frozen=True)
class Named:
    """What a run calls its data and its tokenizer: an identity holds digests alone."""

    sources: tuple[str, ...]
    tokenizer: str
    nemo_model: str | None = None

    @classmethod
    def of(cls, plan: dict[str, Any]) -> Named | None:
        """From plan.json; None where that tells nothing."""
        try:
            sources = tuple(from_here_if_below(source["pair"]["prefix"]) for source in plan["sources"])
            model = plan["settings"].get("nemo_model")
            tokenizer = from_here_if_below(plan["settings"]["hf_model_id"])
            return cls(sources, tokenizer, from_here_if_below(model) if model else None)
        except (KeyError, TypeError):
            return None


def compare(
    now: dict[str, Any],
    then: dict[str, Any],
    allowed: tuple[str, ...],
    where: str,
    names: tuple[Named | None, Named | None] = (None, None),
) -> list[str]:
    """Changes to be told, a line each; raises Refusal with those that are not allowed. `where` names the checkpoint.

    `names` are this start's and those of the start that wrote it.
    """
    problems, told = [], []
    for name in (*NEVER, *REFUSED, *TOLD):
        if name not in then or now[name] == then[name]:
            continue
        difference = "; ".join(_by_name(name, *names) or _differences(now[name], then[name], _sources_of(*names)))
        if name in NEVER:
            problems.append(
                f"{name} differs from {where} ({difference}): {_model_left_out(name, *names) or NEVER[name]}"
            )
        elif name in REFUSED and name not in allowed:
            problems.append(
                f"{REFUSED[name]} changed since {where} ({difference}); put that back, start another --experiment, or give"
                f" --allow-change {name} to continue with it"
            )
        else:
            told.append(f"changed since {where}: {(REFUSED | TOLD)[name]} ({difference})")
    if problems:
        raise Refusal(problems)
    return told


def _model_left_out(name: str, now: Named | None, then: Named | None) -> str:
    """What helps where a run that began with an imported model is gone on with without it, which makes the recipe's model."""
    left_out = name == "model" and now and then and then.nemo_model and not now.nemo_model
    return f"the run began with --nemo-model {then.nemo_model}: give that again" if then and left_out else ""


def _by_name(name: str, now: Named | None, then: Named | None) -> list[str]:
    """The change in words where other data or another tokenizer was named; nothing where it has the same name."""
    if now is None or then is None:
        return []
    if name == "dataset" and now.sources != then.sources:
        return [f"then {and_more(list(then.sources))}, now {and_more(list(now.sources))}"]
    if name == "tokenizer" and now.tokenizer != then.tokenizer:
        return [f"then {then.tokenizer}, now {now.tokenizer}"]
    return []


def _sources_of(now: Named | None, then: Named | None) -> tuple[str, ...]:
    """The names of the sources, where both starts have the same."""
    return now.sources if now and then and now.sources == then.sources else ()


def _differences(now: Any, then: Any, names: tuple[str, ...] = ()) -> Iterator[str]:
    """In words; `names` are those of the entries of a list."""
    if isinstance(now, dict) and isinstance(then, dict):
        for key in {**then, **now}:
            if now.get(key) != then.get(key):
                yield from (f"{key} {change}" for change in _differences(now.get(key), then.get(key)))
    elif isinstance(now, list) and isinstance(then, list):
        if len(now) != len(then):
            yield f"{len(then)} -> {len(now)} sources"
        for number, (new, old) in enumerate(zip(now, then, strict=False), 1):
            for change in _differences(new, old):
                yield f"{names[number - 1] if names else f'source {number}'}: {change}"
    elif any(isinstance(one, str) and DIGEST.fullmatch(one) for one in (now, then)):
        yield "other content"
    else:
        # 1e-06 for 1.0000000000000002e-06, but where that is all that differs
        old, new = (f"{value:g}" if isinstance(value, float) else str(value) for value in (then, now))
        yield f"{old} -> {new}" if old != new else f"{then} -> {now}"
