"""Which config.json fields a family's model class reads, so that those without effect block nothing.

read_fields.json is written by tools/generate_read_fields.py from the sources of transformers.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from nemo_workflow.models.families.base import Config, Family

READ_FIELDS = Path(__file__).with_name("read_fields.json")
# no model class reads them, and they say that the weights are not what they seem
QUANTISED = frozenset(("quantization_config", "quantization", "compression_config"))


# known to be without effect, also in a config.json that doesn't say which transformers wrote it
WITHOUT_EFFECT_NAMES = re.compile(
    "unsloth_.*|summary_.*|transformers[.]js_config|is_llama_config|rope_interleaved|activation|activation_function"
    "|mlp_type|norm_type|layer_norm_epsilon|sliding_window_size|interpolate_factor|full_attn_mod|lm_head_bias"
    "|pad_key_length|inference_runner|max_batch_size|max_sequence_length|pre_allocate_kv_cache|validate_runner_input"
)


@functools.cache
def _versions() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = json.loads(READ_FIELDS.read_text(encoding="utf-8"))
    return found


@functools.cache
def fields_read(family: Family) -> frozenset[str]:
    """Fields that transformers 4 or 5 reads for the model, and those that speak of quantised weights."""
    return QUANTISED.union(*(version.get(family.model_type, ()) for version in _versions().values()))


def without_effect(name: str, hf: Config, family: Family) -> bool:
    """Whether the model surely doesn't read a field: a newer transformers than those looked at may, and code of its own too."""
    if family.reference or name in fields_read(family):
        return False
    return bool(WITHOUT_EFFECT_NAMES.fullmatch(name)) or _known(hf.get("transformers_version"))


def _known(version: Any) -> bool:
    """Whether a transformers is one of those looked at, or older."""
    return isinstance(version, str) and _numbers(version) <= max(map(_numbers, _versions())) and _numbers(version) > []


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.split("dev")[0])[:3]]
