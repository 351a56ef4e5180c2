"""Write nemo_workflow/models/families/read_fields.json: which fields of a config.json each model class of transformers reads.

    python tools/generate_read_fields.py            with the environment's transformers
    PYTHONPATH=<another transformers> python tools/generate_read_fields.py    adds another version's

A field that the model doesn't read changes nothing that it computes, whatever put it there. Found in the sources, without
importing them; the entries of other versions of transformers stay.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nemo_workflow.models.families import FAMILIES  # noqa: E402
from nemo_workflow.models.families.reads import READ_FIELDS  # noqa: E402
from nemo_workflow.utils.files import written_aside  # noqa: E402

CONFIGS = ("config", "text_config", "configuration")
# fields that all models read through transformers' shared code: masks, rotary positions
SHARED = {"is_causal", "partial_rotary_factor", "rope_parameters", "rope_scaling", "rope_theta"}


def read_fields(model_type: str) -> set[str]:
    """Fields that modeling_*.py reads, and those that configuration_*.py works out others from."""
    found = importlib.util.find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("transformers is not installed")
    package = model_type.removesuffix("_text")
    folder = Path(found.submodule_search_locations[0]) / "models" / package
    names = set(SHARED)
    for path in folder.glob("modeling_*.py"):
        names |= set(_of_config(ast.parse(path.read_text(encoding="utf-8"))))
    for path in folder.glob("configuration_*.py"):
        names |= set(_worked_with(ast.parse(path.read_text(encoding="utf-8"))))
    return names


def _of_config(tree: ast.AST) -> Iterator[str]:
    """X of config.X, self.config.X and getattr(config, "X")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_config(node.value):
            yield node.attr
        elif (name := _fetched(node)) is not None:
            yield name


def _fetched(node: ast.AST) -> str | None:
    """X of getattr(config, "X") and hasattr(config, "X")."""
    match node:
        case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[config, ast.Constant(value=str(name)), *_]) if (
            _is_config(config)
        ):
            return name
    return None


def _is_config(node: ast.AST) -> bool:
    return getattr(node, "id", None) in CONFIGS or getattr(node, "attr", None) in CONFIGS


def _worked_with(tree: ast.AST) -> Iterator[str]:
    """Fields that a configuration's own code reads back, and arguments that it does more with than keep them."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Load)
            and getattr(node.value, "id", "") == "self"
        ):
            yield node.attr
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]} - {"self"}
            for statement in node.body:
                if not _only_keeps(statement):
                    yield from (n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and n.id in arguments)


def _only_keeps(statement: ast.stmt) -> bool:
    """self.x = x, or the call of the base class."""
    if isinstance(statement, ast.Assign):
        return isinstance(statement.value, ast.Name)
    return isinstance(statement, ast.Expr)


def main() -> None:
    version = importlib.metadata.version("transformers")
    known = json.loads(READ_FIELDS.read_text(encoding="utf-8")) if READ_FIELDS.exists() else {}
    known[version] = {
        family.model_type: sorted(read_fields(family.model_type)) for family in FAMILIES if not family.reference
    }
    with written_aside(READ_FIELDS) as stream:
        json.dump(dict(sorted(known.items())), stream, indent=1)
        stream.write("\n")
    print(f"{READ_FIELDS}: {len(FAMILIES)} model types of transformers {version}")


if __name__ == "__main__":
    main()
