"""The two directions. Tensors stream: one Megatron tensor (all its Hugging Face parts) is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_workflow.conversion import folder_checks, hf_folder, nemo_folder
from nemo_workflow.conversion.hf_folder import HFReader, Planned
from nemo_workflow.conversion.nemo_folder import Chunk, NemoReader
from nemo_workflow.conversion.transforms import KINDS, Dims
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.mapping import Item, items
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal

Place = tuple[str, tuple[int, ...]]
Export = tuple[Item, str, tuple[int, ...], list[Planned]]
OnBytes = Callable[[int], None]


@dataclass
class Model:
    """What both directions and the verification share. `hf` is a completed config.json."""

    family: Family
    hf: Config

    @property
    def dims(self) -> Dims:
        hf = self.hf
        return Dims(hf["num_attention_heads"], hf["num_key_value_heads"], hf.get("head_dim", 0), hf["vocab_size"])

    def items(self) -> Iterator[Item]:
        return items(self.family, self.hf)


# --- Hugging Face -> NeMo ---------------------------------------------------------------------------------------------
def plan_import(model: Model, reader: HFReader, dropped: set[str]) -> list[Chunk]:
    """The chunks of the NeMo checkpoint. Refused: a tensor that is missing, or that no rule carries and `dropped` doesn't name."""
    folder_checks.check_names(model.family, model.hf, reader.tensors, dropped)
    experts, layers = model.family.experts(model.hf), model.hf["num_hidden_layers"]
    chunks = []
    for item in model.items():
        chunks += [_chunk(item, name, model, reader, layers, experts) for name in (item.nemo, item.alias) if name]
    return chunks


def _chunk(item: Item, name: str, model: Model, reader: HFReader, layers: int, experts: int) -> Chunk:
    merge = KINDS[item.kind].merge
    shape = _shape(lambda: merge([reader.meta(name) for name in item.hf], model.dims), item)
    key = name.replace(".{e}", "")
    lead: tuple[tuple[int, int], ...] = ()
    if item.layer is not None and model.family.stacked(model.hf):
        key = key.replace(".{l}", "")
        lead = ((item.layer, layers),)
    elif item.layer is not None:
        key = key.replace("{l}", str(item.layer))
    if item.expert is not None:
        lead += ((item.expert, experts),)
    return Chunk(
        key=key,
        global_shape=(*(size for _, size in lead), *shape.shape),
        offsets=(*(at for at, _ in lead), *(0 for _ in shape.shape)),
        shape=(*(1 for _ in lead), *shape.shape),
        dtype=shape.dtype,
        make=lambda: merge([_finite(name, reader.read(name)) for name in item.hf], model.dims),
    )


def _finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself; raises Refusal where it holds NaN or infinity. A sum costs a third of the copy that follows."""
    if not torch.isfinite(tensor.sum()) and not all(torch.isfinite(end) for end in torch.aminmax(tensor)):
        raise Refusal(
            f"{name}: holds NaN or infinity, so the model computes nothing: take an earlier or another copy of it"
        )
    return tensor


def _shape(make: Callable[[], torch.Tensor], item: Item) -> torch.Tensor:
    try:
        return make()
    except RuntimeError as error:
        raise Refusal(f"{item.hf[0]}: its shape doesn't fit config.json ({error})") from error


# --- NeMo -> Hugging Face ---------------------------------------------------------------------------------------------
def plan_export(model: Model, reader: NemoReader) -> list[Export]:
    """For each Megatron tensor: where it is, and the Hugging Face tensors that it becomes."""
    plan, used = [], set()
    for item in model.items():
        place = find(reader, item)
        if place is None:
            raise Refusal(
                f"{reader.weights}: has no tensor {item.label}: this is not a complete {model.family.model_class}"
            )
        used |= {place[0], *(other[0] for other in [find_alias(reader, item)] if other)}
        try:
            parts = KINDS[item.kind].split(reader.meta(*place), model.dims)
        except RuntimeError as error:
            raise Refusal(f"{reader.weights}: {item.label} doesn't fit context/model.yaml ({error})") from error
        if item.has_vocabulary and parts[0].shape[0] != model.dims.vocab:
            rows = parts[0].shape[0]
            raise Refusal(f"{reader.weights}: {item.label} has {rows} rows, the vocabulary {model.dims.vocab} entries")
        planned = [
            Planned(name, str(part.dtype).removeprefix("torch."), tuple(part.shape))
            for name, part in zip(item.hf, parts, strict=True)
        ]
        plan.append((item, *place, planned))
    left = sorted(set(reader.tensors) - used)
    if left:
        raise Refusal(
            f"{reader.weights}: {model.family.architecture} has no place for {counted(len(left), 'tensor')}, e.g. {left[0]}"
        )
    return plan


def find(reader: NemoReader, item: Item) -> Place | None:
    """Where a Megatron tensor is in a checkpoint, under its name or its other name."""
    return reader.locate(item.nemo, item.layer, item.expert) or find_alias(reader, item)


def find_alias(reader: NemoReader, item: Item) -> Place | None:
    """Where it is under its other name."""
    return reader.locate(item.alias, item.layer, item.expert) if item.alias else None


def write_hf(folder: Path, model: Model, reader: NemoReader, plan: list[Export], on_bytes: OnBytes) -> None:
    """Write the safetensors files of `folder`."""

    def values() -> Iterator[tuple[str, torch.Tensor]]:
        for item, key, lead, _ in plan:
            parts = KINDS[item.kind].split(reader.read(key, lead), model.dims)
            for name, part in zip(item.hf, parts, strict=True):
                on_bytes(part.nbytes)  # before it is handed on: nobody asks for more after the last one
                yield name, _finite(name, part)

    hf_folder.write_tensors(folder, [entry for *_, entries in plan for entry in entries], values())


def write_nemo(folder: Path, model: Model, chunks: list[Chunk], on_bytes: OnBytes) -> None:
    """Write weights/ of `folder`."""
    family, hf = model.family, model.hf
    objects = nemo_folder.empty_states(hf["num_hidden_layers"], family.experts(hf), family.stacked(hf))
    nemo_folder.write_weights(folder / "weights", chunks, list(objects), on_bytes)
