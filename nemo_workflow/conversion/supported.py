"""supported_model.txt, supported_config.txt and supported_model_name.txt, and the config sizes that --model-config-name is held against.

What the installed NeMo holds is kept in nemo_configs.json by ckpt_conversion/list_supported_model_config.py; the texts follow from that and
from models/families (`make generate`). Tests compare both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow import REPOSITORY
from nemo_workflow.models import catalog
from nemo_workflow.models.families import FAMILIES
from nemo_workflow.models.families.base import Family
from nemo_workflow.models.families.not_converted import LLAMA4, NOT_CONVERTED, refused
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import write_json, written_aside
from nemo_workflow.utils.silence import quiet

SIZES_FILE = Path(__file__).with_name("nemo_configs.json")
# fields of a config class that a config.json may contradict
SIZES = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
    "num_moe_experts", "moe_router_topk", "moe_ffn_hidden_size", "rotary_base", "rotary_percent", "scale_factor",
    "share_embeddings_and_output_weights", "add_qkv_bias", "window_size",
)  # fmt: skip
HEADER = "# Written by ckpt_conversion/list_supported_model_config.py from nemo_toolkit {version}; what is verified is in docs/conversion.md.\n"


PROVED_FILE = Path(__file__).with_name("proved.json")
# a test's word -> what it means, in supported_model.txt
MEANING = {
    "trained": "imported, trained and exported on a CPU",
    "gpu": "imported and exported on a CPU; training needs Transformer Engine, on a GPU (the recipe was built, not run)",
    "no recipe": "imported and exported on a CPU; NeMo has no recipe to pretrain it",
}


def proved() -> dict[str, str]:
    """Family -> how far it was taken by tests/e2e/conversion/test_trained_families.py, which holds the file against what it sees."""
    found: dict[str, str] = json.loads(PROVED_FILE.read_text(encoding="utf-8"))
    return found


def _proved(family: Family) -> str:
    seen = proved().get(family.name)
    if seen is None:
        raise Refusal(
            f"{PROVED_FILE}: says nothing of {family.name}; FAMILY_RESULTS={PROVED_FILE} python -m pytest -m e2e"
            " tests/e2e/conversion/test_trained_families.py writes what it sees"
        )
    return seen


def state(model_class: str) -> tuple[str, str]:
    """(what can be done with a NeMo model class, which architectures that means or why not)."""
    families = [family for family in FAMILIES if family.model_class == model_class]
    if not families:
        return "refused", str(refused(model_class, model_class))
    words = {_proved(family) for family in families}
    short = "trained and exported" if words == {"trained"} else "exported"
    titles = "; ".join(f"{family.title} ({family.architecture})" for family in families)
    text = f"{titles}: {'; '.join(MEANING[word] for word in sorted(words))}"
    if model_class == "LlamaModel":
        text += f"; not Llama 4: {LLAMA4}"
    for family in families:
        if family.trained_as:
            text += f"; after training exported as {family.trained_as.architecture}"
    return short, text


def parser() -> argparse.ArgumentParser:
    """Flags of list_supported_model_config.py."""
    made = Parser(
        description="Write supported_model.txt, supported_config.txt and supported_model_name.txt (recipes), each with its state.",
    )
    made.add_argument(
        "--output-dir", type=Path, default=REPOSITORY, help="where to write them (default: the project's folder)"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run list_supported_model_config.py."""
    args = parser().parse_args(argv)
    with quiet():
        found = from_nemo()
    write_json(SIZES_FILE if args.output_dir == REPOSITORY else args.output_dir / SIZES_FILE.name, found)
    for line in write_lists(found, args.output_dir):
        print(line)
    return 0


def write_lists(found: dict[str, Any], folder: Path) -> Iterator[str]:
    """Write the three lists into a folder; gives a line for each. `found` is what from_nemo gives, or what is stored of it."""
    for name, text in lists(found).items():
        with written_aside(folder / name) as stream:
            stream.write(text)
        yield f"{folder / name}: {text.count(chr(10)) - 1} lines"


def lists(found: dict[str, Any]) -> dict[str, str]:
    """File name -> text of the three lists. Needs no NeMo."""
    tables: dict[str, list[tuple[str, ...]]] = {
        "supported_model.txt": [(name, *state(name)) for name in found["models"]],
        "supported_config.txt": [
            (name, entry["model_class"], *brief(entry["model_class"], name)) for name, entry in found["configs"].items()
        ],
        "supported_model_name.txt": [(name, model, *brief(model, name)) for name, model in recipes()],
    }
    header = HEADER.format(version=found["nemo_toolkit"])
    return {name: header + "".join(f"{line}\n" for line in columns(rows)) for name, rows in tables.items()}


def brief(model_class: str, name: str) -> tuple[str, ...]:
    """The state of a configuration class or a recipe, and the reason where it is a no."""
    if why := refused(model_class, name):
        return "refused", why
    return (state(model_class)[0],)


def columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows as aligned text; the last column of a row may be long."""
    widths = [max(len(row[i]) for row in rows if len(row) > i + 1) for i in range(max(map(len, rows)) - 1)]
    for row in rows:
        yield "  ".join([*(f"{text:{width}}" for text, width in zip(row[:-1], widths, strict=False)), row[-1]])


def recipes() -> list[tuple[str, str]]:
    """(recipe, model class) of NeMo's recipes, from the project's catalogue."""
    return [(name, recipe.model_class) for name, recipe in catalog.load().items()]


def from_nemo() -> dict[str, Any]:
    """NeMo's version, its model classes, and its config classes with model class and sizes. Imports NeMo."""
    from nemo_workflow.backends.deferral import run
    from nemo_workflow.conversion.nemo_context import prepare

    prepare()
    import nemo
    import nemo.collections.llm.gpt.model as package
    from nemo.collections import llm

    for deferred in (llm, package):  # each of their models registers itself as it is imported
        run(deferred)
    from megatron.core.transformer.transformer_config import TransformerConfig
    from nemo.lightning.io.mixin import ConnectorMixin

    models = {key.split("'")[1].rsplit(".", 1)[-1] for key in ConnectorMixin._IMPORTERS if key.endswith("hf")}
    configs: dict[str, Any] = {}
    for found in pkgutil.iter_modules(package.__path__):
        if found.name == "megatron":
            continue
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        own = [v for v in vars(module).values() if isinstance(v, type) and vars(v).get("__module__") == module.__name__]
        owner = model_of(found.name, [v.__name__ for v in own])
        for cls in own:
            if issubclass(cls, TransformerConfig) and owner:
                bases = [base.__name__ for base in cls.__mro__[1:] if base.__module__ == module.__name__]
                configs[cls.__name__] = {"model_class": owner, "bases": bases, "sizes": sizes(cls)}
    return {"nemo_toolkit": nemo.__version__, "models": sorted(models), "configs": dict(sorted(configs.items()))}


def model_of(module: str, classes: list[str]) -> str | None:
    """The model class whose configs a module of NeMo's holds."""
    known = [family.model_class for family in FAMILIES if family.module == module]
    return known[0] if known else next((name for name in classes if name in NOT_CONVERTED), None)


def sizes(cls: type) -> dict[str, Any]:
    """The sizes that a config class names; a general class names none."""
    values = {name: getattr(cls, name, None) for name in SIZES}  # a dataclass keeps its defaults as attributes
    if not values["num_layers"]:
        return {}
    return {name: value for name, value in values.items() if isinstance(value, (int, float, str, bool, list, tuple))}


def stored() -> dict[str, Any]:
    """What from_nemo found, as nemo_configs.json keeps it."""
    found: dict[str, Any] = json.loads(SIZES_FILE.read_text(encoding="utf-8"))
    return found


def listed() -> dict[str, Any]:
    """The config classes of the list. Needs no NeMo."""
    found: dict[str, Any] = stored()["configs"]
    return found


def config_names() -> list[str]:
    return list(listed())


def is_variant(name: str, general: str) -> bool:
    """Whether a config class is `general` or derives from it."""
    return name == general or general in listed()[name]["bases"]


def family_of_config(name: str) -> tuple[Family | None, dict[str, Any]]:
    """(family, sizes) of a config class, from the list; None if it isn't listed. Needs no NeMo."""
    entry = listed().get(name)
    if entry is None:
        return None, {}
    return next((f for f in FAMILIES if f.model_class == entry["model_class"]), None), entry["sizes"]
