"""Whether a Hugging Face model's folder is one that is converted, before its conversion is proposed."""

from __future__ import annotations

from pathlib import Path

from nemo_workflow.models.families import by_model_type
from nemo_workflow.models.families.not_converted import why_not
from nemo_workflow.models.families.wrappers import text_part
from nemo_workflow.models.other_weights import what_is_there
from nemo_workflow.models.tokenizer_files import json_of
from nemo_workflow.utils import folder_kinds
from nemo_workflow.utils.errors import Refusal


def meant(place: str | Path, wanted: str, flag: str) -> str:
    """`folder_kinds.meant`, but of a model that convert_from_hf_to_nemo2.py would refuse why it isn't converted."""
    said = folder_kinds.meant(place, wanted, flag)
    is_model = said.startswith(f"; {folder_kinds.HF_MODEL}: ")
    why = why_not_converted(Path(place).expanduser()) if is_model else ""
    return f"; {folder_kinds.HF_MODEL}, and {why}" if why else said


def why_not_converted(folder: Path) -> str:
    """Why a model's folder isn't converted, by its config.json and the names of its files; '' where they don't speak against it."""
    try:
        raw = text_part(json_of(folder / "config.json"))
    except Refusal:  # of which the conversion tells more
        return ""
    if not raw:
        return ""
    model_type = raw.get("model_type")
    family = by_model_type(model_type) if isinstance(model_type, str) else None
    if family is None:
        return f"model_type {model_type!r} is not converted: {why_not(raw)}"
    if refused := family.refuses(raw):
        return refused
    if not any(folder.glob("*.safetensors*")):
        return f"its weights are no safetensors{what_is_there(folder)}"
    return ""
