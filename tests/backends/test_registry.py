"""Every patch of a library stands in the registry, and is put in place from there alone. Reads sources; imports no library."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_workflow import PACKAGE
from nemo_workflow.backends.patching import CPU, GPU, OWN
from nemo_workflow.backends.registry import PATCHES, find, that_apply
from nemo_workflow.backends.registry_cpu import CPU_PATCHES

LIBRARIES = {
    "torch",
    "nemo",
    "megatron",
    "lightning",
    "transformers",
    "nemo_run",
    "transformer_engine",
    "apex",
    "torchx",
}
LIBRARIES |= {"nv_one_logger", "fiddle", "flash_attn"}
ALLOWED = "backends.patching"  # the one module that may
# an object that our own code has just made, or a library's place for such a function: no patch
OFFICIAL = {
    "backends.cpu.torch:disable_compile": "torch._dynamo.config: torch's own switch",
    "backends.deferral:defer": "sys.meta_path: where Python takes import hooks; what they defer has rows",
    "backends.one_module:when_imported": "sys.meta_path too: what is replaced as the module runs has a row",
    "launch.slurm.script:check_tunnel": "paramiko's handler, on a tunnel that is only tried",
    "training.sample_order:arrange": "dataset_cls: NeMo's data module takes a class there",
    "training.source_losses:attach": "training_data_step: NeMo looks for a step of that name before its own",
    "utils.help_screen:__call__": "formatter_class: argparse's parser has it for that",
    "conversion.local_specs:deepseek": "a layer's specification, which is there to be filled in",
    "conversion.compare_logits:megatron_forward": "activation_func: a field of NeMo's config",
    "conversion.compare_logits:weights_on_demand": "forward of one module that this process made",
}


def root_of(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def is_function(value: ast.expr, functions: set[str]) -> bool:
    """Whether an expression gives a function or class: one of this file's, a lambda, a partial or bound method."""
    if isinstance(value, ast.Lambda) or (isinstance(value, ast.Name) and value.id in functions):
        return True
    made = value.func if isinstance(value, ast.Call) else None
    return made is not None and ast.unparse(made).rpartition(".")[2] in {
        "partial",
        "staticmethod",
        "MethodType",
        "wraps",
    }


def imported(tree: ast.AST) -> set[str]:
    """The names that a file has of the libraries."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
            names |= {name.asname or name.name for name in node.names}
        if isinstance(node, ast.Import):
            names |= {
                (n.asname or n.name).partition(".")[0] for n in node.names if n.name.partition(".")[0] in LIBRARIES
            }
    return names


def patches_in(source: str) -> Iterator[tuple[str, str]]:
    """(function that holds it, code) of each statement that replaces something inside a library."""
    tree = ast.parse(source)
    theirs = imported(tree)
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}

    def look(node: ast.AST, inside: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Assign | ast.AugAssign | ast.AnnAssign):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                for target in targets:
                    if isinstance(target, ast.Subscript) and ast.unparse(target.value) == "sys.modules":
                        yield inside, ast.unparse(child)
                    if not isinstance(target, ast.Attribute):
                        continue
                    root = root_of(target)
                    known = root in theirs and not isinstance(target.value, ast.Call)
                    taken = (
                        child.value is not None and root not in ("self", "cls") and is_function(child.value, defined)
                    )
                    if known or taken or target.attr == "__class__":
                        yield inside, ast.unparse(child)
            if isinstance(child, ast.Call):
                called = ast.unparse(child.func)
                if called in ("setattr", "monkeypatch.setattr") and child.args and root_of(child.args[0]) in theirs:
                    yield inside, ast.unparse(child)
                if called in ("sys.meta_path.insert", "sys.modules.setdefault", "sys.modules.update"):
                    yield inside, ast.unparse(child)
                if called.endswith(("library.Library", ".Library")) and root_of(child.func) in theirs:
                    yield inside, ast.unparse(child)
            yield from look(child, child.name if isinstance(child, ast.FunctionDef) else inside)

    yield from look(tree, "")


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield (
            ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"),
            path.read_text("utf-8"),
        )


def test_nothing_is_replaced_but_by_the_registry() -> None:
    own = {row.make for row in PATCHES if row.signature == OWN}
    found = [
        f"{module}:{function}: {code}"
        for module, source in modules()
        if module != ALLOWED
        for function, code in patches_in(source)
        if f"{module}:{function}" not in own | OFFICIAL.keys() and not settings_of_torch(code)
    ]
    assert found == [], "give each a row in backends/registry.py, and put it in place with patching.replace"


def settings_of_torch(code: str) -> bool:
    """torch's documented switches."""
    return code.startswith(("torch.backends.", "torch.set_"))


@pytest.mark.parametrize(
    "source",
    [
        "from megatron.core import optimizer\ndef go():\n    optimizer.get = 3",
        "import torch\ntorch.nn.Module.forward = lambda self: self",
        "from lightning.pytorch import Trainer as T\nsetattr(T, 'fit', None)",
        "import types\ndef go(trainer):\n    def mine(): ...\n    trainer.fit = types.MethodType(mine, trainer)",
        "def go(model):\n    def forward(): ...\n    model.forward = forward",
        "def go(loop):\n    loop.__class__ = int",
        "import sys\nsys.modules['apex'] = None",
        "import torch\ndef go():\n    library = torch.library.Library('aten', 'IMPL')",
    ],
)
def test_a_patch_without_the_registry_is_found(source: str) -> None:
    assert list(patches_in(source))


def test_an_own_object_and_plain_values_are_no_patches() -> None:
    source = "from nemo import lightning\ndef go(self, recipe):\n    def mine(): ...\n    self.call = mine\n    recipe.trainer.steps = 3"
    assert list(patches_in(source)) == []


def test_every_row_names_one_function_of_ours() -> None:
    sources = dict(modules())
    assert len({row.make for row in PATCHES}) == len(PATCHES)
    for row in PATCHES:
        module, name = row.make.split(":")
        defined = {n.name for n in ast.parse(sources[module]).body if isinstance(n, ast.FunctionDef)}
        assert name in defined, row.make
        assert row.reason and row.targets and row.versions, row.make


def test_every_row_is_used_and_every_use_has_a_row() -> None:
    used = set()
    for _, source in modules():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "find" and node.args:
                made = ast.unparse(node.args[0]).strip("'")
                if made.startswith(("backends.", "training.", "conversion.", "launch.")):
                    used.add(find(made).make)
    by_hand = {row.make for row in PATCHES if row.where != CPU and row.signature != OWN}
    loop = {make for make in by_hand if make.startswith("backends.gpu.offloaded_optimizer:")}  # by name, in a loop
    own = {row.make for row in PATCHES if row.signature == OWN}
    assert by_hand - loop == used - own - {row.make for row in CPU_PATCHES}


@pytest.mark.parametrize(("accelerator", "other"), [(CPU, GPU), (GPU, CPU)])
def test_a_run_takes_those_of_its_accelerator_and_settings(accelerator: str, other: str) -> None:
    settings = SimpleNamespace(
        executor="local", fp8=False, precision="16-mixed", optim_cpu_offloading=False, validation_dir=()
    )
    settings.optimizer_precision = None
    taken = that_apply(settings, accelerator)
    assert {row.where for row in taken} >= {accelerator, "rank", "launcher"}
    assert not any(row.where == other for row in taken)
    names = {row.name for row in taken}
    assert "forking" in names and not names & {
        "noted",
        "mlp_forward",
        "only_the_number",
        "without_classes",
        "in_pieces",
        "unlogged",
    }
    settings.validation_dir, settings.optimizer_precision = ("a",), "bf16"
    settings.optim_cpu_offloading, settings.executor, settings.precision = True, "slurm", "bf16-mixed"
    names = {row.name for row in that_apply(settings, accelerator)}
    assert names >= {"noted", "only_the_number", "unlogged"} and ({"without_classes", "in_pieces"} <= names) == (
        accelerator == GPU
    )


def test_the_list_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['x', '--json']\n"
        "from nemo_workflow.runs.commands.patches import main; main()\n"
        "assert not {'torch', 'nemo', 'megatron', 'nemo_run', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == len(PATCHES)
    assert set(rows[0]) >= {"name", "library", "versions", "installed", "targets", "reason", "if_changed"}
