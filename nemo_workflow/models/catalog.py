"""NeMo's recipes by name: classes, sizes, default layout and defaults. Readable without NeMo.

The data, catalog.json, is written by generate_catalog.py and checked against NeMo by a test.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.utils.console import counted, human_count
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.meant import close_to

FILE = Path(__file__).with_name("catalog.json")
# models that have no recipe -> the recipe of their size
SAME_SIZE = {"gpt2": "llama_125m", "gpt2_small": "llama_125m", "gpt2_medium": "llama_350m"}
STRATEGY = "trainer.strategy"
# a recipe's `layout` -> the recipe field it was read from
LAYOUT_FIELDS = {
    "nodes": "trainer.num_nodes",
    "gpus": "trainer.devices",
    "tensor": f"{STRATEGY}.tensor_model_parallel_size",
    "pipeline": f"{STRATEGY}.pipeline_model_parallel_size",
    "virtual_pipeline": f"{STRATEGY}.virtual_pipeline_model_parallel_size",
    "context": f"{STRATEGY}.context_parallel_size",
    "expert": f"{STRATEGY}.expert_model_parallel_size",
    "sequence_parallel": f"{STRATEGY}.sequence_parallel",
    "first_stage_layers": f"{STRATEGY}.num_layers_in_first_pipeline_stage",
    "last_stage_layers": f"{STRATEGY}.num_layers_in_last_pipeline_stage",
    "embedding_counts": f"{STRATEGY}.account_for_embedding_in_pipeline_split",
    "loss_counts": f"{STRATEGY}.account_for_loss_in_pipeline_split",
}


@dataclass(frozen=True)
class Recipe:
    """One recipe. `sizes` holds fields of its model configuration under NeMo's names."""

    name: str
    model_class: str
    config_class: str
    family: str  # gpt (decoders, MoE and MLA too), ssm (Mamba and hybrids), hyena, t5 or bert
    sizes: dict[str, Any]
    layout: dict[str, Any]
    fields: dict[str, Any]  # dotted recipe field -> stock value, for the fields that flags set
    fp32_grad_reduce: bool
    precision: dict[str, Any]
    reference_vocab: int  # of the tokenizer that the family was published with
    longest_sequence: int | None  # tokens that the model is made for; None without a limit
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
    return {
        name: Recipe(name=name, **entry | {k: tuple(entry[k]) for k in ("lacks", "callbacks")})
        for name, entry in _file()["recipes"].items()
    }


def nemo_version() -> str:
    """The NeMo that the recipes were read from."""
    return str(_file()["nemo_toolkit"])


def fields_asked_for() -> frozenset[str]:
    """The recipe fields that a flag set when the catalogue was made; `Recipe.lacks` is about these."""
    return frozenset(_file()["fields"])


@functools.cache
def _file() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def find(name: str) -> Recipe:
    """The recipe of a name; raises Refusal with the nearest names."""
    recipes = load()
    if name in recipes:
        return recipes[name]
    if same := SAME_SIZE.get(_plain(name)):
        raise Refusal(
            f"--model-name {name}: NeMo has no recipe for this model; one of its size is {same} (--list-models prints all)"
        )
    spelled = as_recipe(name)
    close = [spelled] if spelled in recipes else close_to(spelled, recipes, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    what = (
        "a recipe's name is expected (the Hugging Face id goes with --hf-model-id)" if "/" in name else "unknown recipe"
    )
    raise Refusal(f"--model-name {name}: {what}{hint} (--list-models prints all)")


def _plain(name: str) -> str:
    return name.rpartition("/")[2].lower().replace("-", "_")


def as_recipe(name: str) -> str:
    """Llama-3.1-8B-Instruct, meta-llama/Llama-3.1-8B or llama-31-8b -> llama31_8b, as recipes are spelled."""
    plain = _plain(name)
    plain = re.sub(r"_(base|instruct|it|hf|pt|chat)$", "", plain)
    plain = re.sub(r"(?<![\d.])0\.(\d)b", r"\g<1>00m", plain)  # Qwen3-0.6B is qwen3_600m
    plain = re.sub(r"(\d)\.(\d+)b", r"\1p\2b", plain)
    plain = re.sub(r"^([a-z]+)_(v?\d+(\.\d+)?)_", r"\1\2_", plain).replace(".", "")
    return SAME_SIZE.get(plain, plain)


def listing(word: str) -> str:
    """A table of the recipes whose names contain `word`; raises Refusal with the nearest names if none does."""
    from nemo_workflow.models import parameters

    found = [recipe for recipe in load().values() if word.lower().replace("-", "_") in recipe.name]
    if not found:
        close = close_to(word.lower(), load(), cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; --list-models alone prints all"
        raise Refusal(f"--list-models {word}: no recipe has this in its name{hint}")
    rows = [("recipe", "parameters", "layers", "hidden", "longest sequence", "its own layout")]
    for recipe in found:
        vocabulary = parameters.padded_vocabulary(recipe.sizes, recipe.reference_vocab)
        count = parameters.count(recipe.family, recipe.model_class, recipe.sizes, vocabulary)
        size = human_count(count.total), str(len(count.layers)), str(recipe.sizes["hidden_size"])
        rows.append((recipe.name, *size, str(recipe.longest_sequence or "any"), _own_layout(recipe)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _own_layout(recipe: Recipe) -> str:
    layout = recipe.layout
    parts = {"TP": "tensor", "PP": "pipeline", "VPP": "virtual_pipeline", "CP": "context", "EP": "expert"}
    split = " ".join(f"{short} {layout[name]}" for short, name in parts.items() if layout[name] > 1) or "DP only"
    split += ", SP" if layout["sequence_parallel"] else ""
    ranks, needed = layout["nodes"] * layout["gpus"], layout["tensor"] * layout["pipeline"] * layout["context"]
    if needed > ranks:  # of some recipes NeMo's own default is one machine, which their layout doesn't fit
        return f"{needed} GPUs or more, {split}"
    return f"{layout['nodes']} x {counted(layout['gpus'], 'GPU')}, {split}"
