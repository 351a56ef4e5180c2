"""Every tensor mapped back from what was written and compared, bit for bit, with what was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_workflow.conversion.convert import Model, find
from nemo_workflow.conversion.hf_folder import HFReader
from nemo_workflow.conversion.nemo_folder import NemoReader
from nemo_workflow.conversion.transforms import KINDS


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal shape, dtype and bytes: NaN equals NaN, 0.0 differs from -0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def compare_tensors(model: Model, hf: HFReader, nemo: NemoReader, on_bytes: Callable[[int], None]) -> dict[str, Any]:
    """Map each NeMo tensor back to Hugging Face form and compare it with the Hugging Face tensors.

    Used after both directions, on freshly opened files. Returns the report's `tensors` entry.
    """
    compared, nbytes, different, padded_rows = 0, 0, [], 0
    seen = set()
    for item in model.items():
        place = find(nemo, item)
        if place is None:
            different.append(f"{item.label}: is missing in the NeMo checkpoint")
            continue
        fused = nemo.read(*place)
        if item.kind == "vocab":
            padded_rows = max(padded_rows, fused.shape[0] - model.dims.vocab)
        for name, part in zip(item.hf, KINDS[item.kind].split(fused, model.dims), strict=True):
            seen.add(name)
            if name not in hf.tensors:
                different.append(f"{name}: is missing in the Hugging Face folder")
                continue
            original = hf.read(name)
            if not same_bits(part, original):
                different.append(
                    f"{name}: {tuple(original.shape)} {original.dtype} in the Hugging Face folder, "
                    f"{tuple(part.shape)} {part.dtype} or other numbers in the NeMo checkpoint"
                )
            compared += 1
            nbytes += original.nbytes
            on_bytes(original.nbytes)
    return {
        "compared": compared,
        "bytes": nbytes,
        "different": different,
        "vocabulary_rows": model.dims.vocab,
        "padded_rows_cut": padded_rows,
        "not_carried": sorted(set(hf.tensors) - seen),
    }
