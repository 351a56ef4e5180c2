"""What `make generate` writes is what the table of flags says now."""

from __future__ import annotations

import ast
import dataclasses

from nemo_workflow import REPOSITORY
from nemo_workflow.config.flags import TABLE
from nemo_workflow.config.settings import Settings
from nemo_workflow.conversion import supported
from nemo_workflow.models import catalog
from tools import generate_checks_doc, generate_ctrl_c, generate_settings


def test_settings_have_the_fields_of_the_table() -> None:
    assert generate_settings.FILE.read_text(encoding="utf-8") == generate_settings.text(), "run `make generate`"
    assert [field.name for field in dataclasses.fields(Settings)] == [
        "given",
        "from_file",
        "worked_out",
        *(option.attribute for option in TABLE),
    ]


def test_settings_come_back_from_json() -> None:
    settings = Settings(max_steps=7, dataset_dir=("a", "b"), hf_token="secret", given=frozenset({"max_steps"}))
    public = settings.public()
    assert public["dataset_dir"] == ["a", "b"] and "hf_token" not in public
    assert Settings.from_public(public, settings.given) == dataclasses.replace(settings, hf_token=None)


def test_a_file_of_another_version_is_read() -> None:
    """A flag that is newer than the file has its default; one that is gone is passed over."""
    assert Settings.from_public({"max_steps": 7, "flag_of_old": 1}) == Settings(max_steps=7)


def test_what_takes_ctrl_c_while_python_starts_knows_every_command() -> None:
    assert generate_ctrl_c.FILE.read_text(encoding="utf-8") == generate_ctrl_c.text(), "run `make generate`"


def test_the_page_of_checks_is_what_the_rules_say() -> None:
    assert generate_checks_doc.FILE.read_text(encoding="utf-8") == generate_checks_doc.text(), "run `make generate`"


def test_every_rule_says_what_it_mirrors() -> None:
    for path in generate_checks_doc.CHECKS.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(generate_checks_doc.messages(node)):
                assert ast.get_docstring(node), f"{path.name}: {node.name} needs a docstring"


def test_every_flag_that_sets_a_field_sets_one_that_some_recipe_has() -> None:
    """A mistyped field would be found by a rank only."""
    recipes = catalog.load().values()
    for option in TABLE:
        for path in option.sets:
            assert path in catalog.fields_asked_for(), f"--{option.name}: run python -m tools.generate_catalog"
            assert any(path not in recipe.lacks for recipe in recipes), f"--{option.name}: no recipe has {path}"


def test_the_lists_of_models_are_what_the_families_say() -> None:
    """What NeMo itself says is compared in tests/e2e/conversion/test_nemo.py."""
    for name, text in supported.lists(supported.stored()).items():
        assert (REPOSITORY / name).read_text(encoding="utf-8") == text, f"{name}: run `make generate`"
