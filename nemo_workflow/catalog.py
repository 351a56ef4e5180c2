"""NeMo's recipes by name: classes, sizes, default layout and defaults. Readable without NeMo.

The data, catalog.json, is written by generate_catalog.py and checked against NeMo by a test.
"""

from __future__ import annotations

import difflib
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.errors import Refusal

FILE = Path(__file__).with_name("catalog.json")


@dataclass(frozen=True)
class Recipe:
    """One recipe. `sizes` holds fields of its model configuration under NeMo's names."""

    name: str
    model_class: str
    config_class: str
    family: str  # gpt (decoders, MoE and MLA too), ssm (Mamba and hybrids), hyena, t5 or bert
    sizes: dict[str, Any]
    layout: dict[str, Any]
    defaults: dict[str, Any]
    fp32_grad_reduce: bool
    precision: dict[str, Any]
    reference_vocab: int  # of the tokenizer that the family was published with
    longest_sequence: int  # tokens
    callbacks: tuple[str, ...]  # class names
    parameters: int | None  # of NeMo's own model with reference_vocab; None where a CPU can't build it
    lacks: tuple[str, ...]  # recipe fields of the table of options that this recipe doesn't have

    def size(self, field: str, default: Any = None) -> Any:
        """A field of the model configuration; `default` where it is absent or None."""
        value = self.sizes.get(field)
        return default if value is None else value


@functools.cache
def load() -> dict[str, Recipe]:
    """Every recipe by name, sorted."""
    raw = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Recipe(name=name, **entry | {k: tuple(entry[k]) for k in ("lacks", "callbacks")}) for name, entry in raw.items()}


def find(name: str) -> Recipe:
    """The recipe of a name; raises Refusal with the nearest names."""
    recipes = load()
    if name in recipes:
        return recipes[name]
    close = difflib.get_close_matches(name.lower().replace("-", "_").replace(".", ""), recipes, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise Refusal(f"--model-name {name}: unknown recipe{hint} (--list-models prints all)")
