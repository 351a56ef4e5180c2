"""An import that has passed its checks, and what it would do, for those who only look. Needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.conversion import checks, config_fields, folder_checks, hf_folder, inputs
from nemo_workflow.conversion.extension import Extension
from nemo_workflow.models import pretrained
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.foreign_code import code_named, flash_named
from nemo_workflow.models.other_weights import weights_of_any_kind
from nemo_workflow.models.tokenizer_files import CONFIG, files_of, json_of
from nemo_workflow.utils.console import counted, human_bytes
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.folder_kinds import beside_an_adapter
from nemo_workflow.utils.scratch import scratch_folder


@dataclass
class Import:
    """`hf` is the completed config.json, `nemo` the fields of NeMo's config; without weights here, `tensors` is empty.

    `folder` holds config.json and the tokenizer that the checkpoint gets; `reader()` reads the tensors.
    """

    folder: Path
    family: Family
    hf: Config
    nemo: Config
    config_class: str
    tensors: dict[str, hf_folder.TensorInfo]
    dropped: set[str]
    notes: list[str]
    reader: Callable[[], hf_folder.HFReader]
    extension: Extension | None = None

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return max((info.nbytes for info in self.tensors.values()), default=0)


def checked(folder: Path, args: argparse.Namespace, config_alone: bool = False) -> Import:
    """The import of a folder; raises Refusal. `config_alone`: the weights are elsewhere."""
    family, hf = inputs.read_hf(folder)
    checks.model_name(args.model_name, family)
    path = folder / "config.json"
    with folder_checks.making_sense(path, family):
        nemo, losses = config_fields.to_nemo(hf, family)
        config_class = checks.config_class(args.model_config_name, family, hf, nemo)
    listed = {} if config_alone else hf_folder.list_tensors(folder)
    if wrong := beside_an_adapter(folder):
        raise Refusal(f"{folder}: {wrong}")
    tensors, images = checks.text_tensors(listed, folder)
    further = checks.further_layers(hf, tensors)
    dropped = checks.losses(losses, args.allow_lossy, tensors) | further
    with folder_checks.making_sense(path, family):
        notes = checks.notes_on(hf, nemo, family, further)
    if not config_alone:
        carried = {name: info for name, info in tensors.items() if name not in dropped}
        checks.no_strange_dtype(carried, folder)
        with folder_checks.making_sense(path, family):
            folder_checks.check_shapes(hf, carried, path)
            folder_checks.check_names(family, hf, tensors, dropped | checks.repeated(tensors, hf))
        nemo["params_dtype"] = checks.dtype(carried, folder)
    if (folder / "generation_config.json").exists():
        hf_folder.read_json(folder / "generation_config.json")
    if family.reference:
        notes.append(
            "the model's class is code that comes with its folder, which is not run: NeMo's model is proved against transformers'"
            f" {family.reference.model_type}, which computes the same"
        )
    elif own_code := code_named(hf_folder.read_json(path)):
        notes.append(
            f"config.json has {', '.join(own_code)}: code that comes with the model is not run; NeMo's model is proved against"
            f" transformers' own {family.architecture}, and an export leaves it out"
        )
    if flash := flash_named(hf_folder.read_json(path)):
        notes.append(
            f"config.json has {', '.join(f'{key} ({value})' for key, value in flash.items())}: how attention was computed where it"
            " was written, no part of the model; an export leaves it out, so that it loads where that package is missing"
        )
    if images:
        notes.append(
            f"left out: {counted(len(images), 'tensor')} for images, e.g. {min(images)}; only the model's text part is converted"
        )
    return Import(folder, family, hf, nemo, config_class, tensors, dropped, notes, lambda: hf_folder.HFReader(tensors))


def look(args: argparse.Namespace, token: str | None, extend: Callable[[Import, Path], Import]) -> int:
    """Print what an import would do with a folder; of a Hub id all but the weights is downloaded. Raises Refusal as it would.

    `extend(job, scratch)` gives the import with the vocabulary that it will have; it may make the folder `scratch`.
    """
    folder = inputs.fetch(args.source, args.revision, token, weights=False)
    job = checked(folder, args, config_alone=not weights_of_any_kind(folder) and not _is_split(folder))
    with scratch_folder() as scratch:
        lines = list(_lines(extend(job, scratch / "extended"), folder))
    for name, text in lines:
        print(f"{name:11}{text}")
    for note in job.notes:
        print(f"note: {note}")
    print("the import would take it, by all that is known before it; nothing was written")
    return 0


def _is_split(folder: Path) -> bool:
    """Whether a local folder has an index, so that its shards should be there; of a Hub id only the index is."""
    return (folder / hf_folder.INDEX).exists() and folder.parent.name != "snapshots"


def _lines(job: Import, source: Path) -> Iterator[tuple[str, str]]:
    hf, family = job.hf, job.family
    yield "source", str(source)
    yield "model", f"{family.title} ({family.architecture}) -> NeMo's {family.model_class}, {job.config_class}"
    heads = f"{hf['num_attention_heads']} heads"
    yield (
        "sizes",
        (
            f"{counted(hf['num_hidden_layers'], 'layer')}, hidden size {hf['hidden_size']:,}, {heads},"
            f" vocabulary {hf['vocab_size']:,}, {hf['max_position_embeddings']:,} positions"
        ),
    )
    if job.tensors:
        files = len({info.file for info in job.tensors.values()})
        kind = job.nemo["params_dtype"]
        yield (
            "weights",
            f"{counted(files, 'file')}, {counted(len(job.tensors), 'tensor')}, {human_bytes(job.nbytes)}, {kind}",
        )
        disk, memory = checks.needs(job.nbytes, job.largest)
        yield "needs", f"{human_bytes(disk)} of disk for the output, about {human_bytes(memory)} of memory"
    else:
        yield "weights", "none here: they were not looked at"
    if job.extension:
        yield "vocabulary", job.extension.line()
    yield "tokenizer", _tokenizer(job.folder)


def _tokenizer(folder: Path) -> str:
    try:
        files = files_of(folder)
        if not files:
            return "none here: a training needs one (--hf-model-id)"
        if json_of(folder / CONFIG).get("auto_map"):
            return "comes with code of its own, which is not run; its files are copied"
        entries = pretrained.read_tokenizer(folder).vocab_size
    except Refusal as refusal:
        return f"its files would be copied; a training would refuse it: {refusal.problems[0]}"
    return f"{counted(len(files), 'file')}" + (f", {entries:,} entries" if entries else "")
