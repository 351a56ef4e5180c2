"""What `make generate` writes is what the table of flags says now."""

from __future__ import annotations

import dataclasses

from nemo_workflow.config.flags import TABLE
from nemo_workflow.config.settings import Settings
from tools import generate_settings


def test_settings_have_the_fields_of_the_table() -> None:
    assert generate_settings.FILE.read_text(encoding="utf-8") == generate_settings.text(), "run `make generate`"
    assert [field.name for field in dataclasses.fields(Settings)] == ["given", *(option.attribute for option in TABLE)]


def test_settings_come_back_from_json() -> None:
    settings = Settings(max_steps=7, dataset_dir=("a", "b"), hf_token="secret", given=frozenset({"max_steps"}))
    public = settings.public()
    assert public["dataset_dir"] == ["a", "b"] and "hf_token" not in public
    assert Settings.from_public(public, settings.given) == dataclasses.replace(settings, hf_token=None)


def test_a_file_of_another_version_is_read() -> None:
    """A flag that is newer than the file has its default; one that is gone is passed over."""
    assert Settings.from_public({"max_steps": 7, "flag_of_old": 1}) == Settings(max_steps=7)
