"""The proof: every tensor mapped back from what was written and compared, bit for bit, with what was read.

It goes through the model a stage at a time: embedding, each decoder layer, output. Each tensor is read once from either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from nemo_workflow.conversion.buffers import Scratch
from nemo_workflow.conversion.convert import Model, Place, find, find_alias
from nemo_workflow.conversion.hf_folder import HFReader
from nemo_workflow.conversion.nemo_folder import NemoReader
from nemo_workflow.conversion.transforms import KINDS
from nemo_workflow.models.families.mapping import Item


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal shape, dtype and bytes: NaN equals NaN, 0.0 differs from -0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = _bytes(a), _bytes(b)
    words = a.numel() // 8 * 8  # torch compares element by element, so eight bytes at a time
    return torch.equal(a[:words].view(torch.int64), b[:words].view(torch.int64)) and torch.equal(a[words:], b[words:])


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes, from an offset at which eight of them may be taken for a word."""
    flat = tensor.contiguous().view(-1).view(torch.uint8)
    return flat.clone() if flat.storage_offset() % 8 else flat


@dataclass
class Weights:
    """The fp32 weights of one stage: NeMo's by their place in the checkpoint, the Hugging Face model's by their name.

    The embedding and the output layer's are not here: a model takes the rows that it needs from its own files.
    """

    nemo: dict[Place, torch.Tensor] = field(default_factory=dict)
    hf: dict[str, torch.Tensor] = field(default_factory=dict)


class Comparison:
    """Compares a Hugging Face folder with a NeMo checkpoint, both freshly opened, whichever was made of the other.

    `stages` are numbered: 0 the embedding, 1 to the number of layers the layers, then the output. `on_bytes(n)` is called for
    every n bytes compared.
    """

    def __init__(self, model: Model, hf: HFReader, nemo: NemoReader, on_bytes: Callable[[int], None]):
        self.model, self.hf, self.nemo, self.on_bytes = model, hf, nemo, on_bytes
        self.stages: list[list[Item]] = [[] for _ in range(model.hf["num_hidden_layers"] + 2)]
        for item in model.items():
            before = item.nemo.startswith("embedding.")
            self.stages[0 if before else -1 if item.layer is None else item.layer + 1].append(item)
        self.different: list[str] = []
        self._wide = Scratch(), Scratch()
        self._compared = self._nbytes = self._padded_rows = 0

    def stage(self, number: int) -> Weights:
        """Compare the tensors of a stage, and give them in fp32.

        What is the same bits on both sides is read and widened once, and both models hold the same numbers. They lie where
        those of the stage before the last did, which may not be used any more.
        """
        weights, wide = Weights(), self._wide[number % 2]
        wide.clear()
        for item in self.stages[number]:
            place = find(self.nemo, item)
            if place is None:
                self.different.append(f"{item.label}: is missing in the NeMo checkpoint")
                continue
            self._item(item, place, weights, wide)
            other = find_alias(self.nemo, item)
            if other and other != place:
                if place in weights.nemo:
                    weights.nemo[other] = weights.nemo[place]
                if not same_bits(self.nemo.read(*other), self.nemo.read(*place)):
                    self.different.append(f"{item.label}: is written twice, with other numbers under {other[0]}")
        return weights

    def _item(self, item: Item, place: Place, weights: Weights, scratch: Scratch) -> None:
        fused, kind = self.nemo.read(*place), KINDS[item.kind]
        split = kind.split
        wrong = [
            name
            for name, part in zip(item.hf, split(fused, self.model.dims), strict=True)
            if not self._same(name, part, kind.kept)
        ]
        if item.has_vocabulary:
            self._padded_rows = max(self._padded_rows, fused.shape[0] - self.model.dims.vocab)
            return
        wide = weights.nemo[place] = scratch.take(fused.shape).copy_(fused)
        weights.hf |= dict(zip(item.hf, split(wide, self.model.dims), strict=True))
        for name in wrong:
            del weights.hf[name]  # the models then compute with what their own files hold

    def _same(self, name: str, part: torch.Tensor, kept: Callable[[torch.Tensor], torch.Tensor]) -> bool:
        if name not in self.hf.tensors:
            self.different.append(f"{name}: is missing in the Hugging Face folder")
            return False
        original = kept(self.hf.read(name))
        same = same_bits(part, original)
        if not same:
            self.different.append(
                f"{name}: {tuple(original.shape)} {original.dtype} in the Hugging Face folder, "
                f"{tuple(part.shape)} {part.dtype} or other numbers in the NeMo checkpoint"
            )
        self._compared += 1
        self._nbytes += original.nbytes
        self.on_bytes(original.nbytes)
        return same

    def result(self) -> dict[str, Any]:
        """The report's `tensors` entry, when all stages have been compared."""
        names = {name for stage in self.stages for item in stage for name in item.hf}
        return {
            "compared": self._compared,
            "bytes": self._nbytes,
            "different": self.different,
            "vocabulary_rows": self.model.dims.vocab,
            "padded_rows_cut": self._padded_rows,
            "not_carried": sorted(set(self.hf.tensors) - names),
        }
