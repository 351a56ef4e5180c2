"""The Hugging Face side of the logits' comparison: transformers' model of the folder, or, where the folder's code would have to
be run, a model of transformers' own that computes the same (`Family.reference`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_workflow.conversion.config_fields import complete
from nemo_workflow.conversion.folder_checks import checked_values
from nemo_workflow.conversion.hf_folder import read_json
from nemo_workflow.conversion.transforms import rows_of, unit_rows
from nemo_workflow.models.families import transformers5
from nemo_workflow.models.families.wrappers import text_part

if TYPE_CHECKING:
    import torch

    from nemo_workflow.conversion.convert import Model

LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")


def config_of(model: Model, folder: Path) -> Any:
    """transformers' configuration for the config.json of `folder`."""
    from transformers import CONFIG_MAPPING

    path, family = folder / "config.json", model.family
    raw = text_part(read_json(path))
    if family.reference:
        full = complete(checked_values(raw, family, path), family)
        return CONFIG_MAPPING[family.reference.model_type].from_dict(family.reference.config(full))
    # in the words of the transformers that computes here: what version 5 says in others it would pass over
    return CONFIG_MAPPING[family.model_type].from_dict(transformers5.normal(raw, family))


def source_of(model: Model, name: str) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
    """(the folder's tensor, what is taken of it) for a parameter of that model."""
    if model.family.reference is None:
        return name, lambda tensor: tensor
    layer = LAYER.search(name)
    general = LAYER.sub("{l}", name)
    source, part = model.family.reference.tensors.get(general, (general, ""))
    if layer:
        source = source.replace("{l}", layer[0])
    if part == "unit":
        return source, unit_rows
    return source, lambda tensor: rows_of(part, tensor, model.dims) if part else tensor
