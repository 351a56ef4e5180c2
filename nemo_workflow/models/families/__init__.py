"""Every family, and how one is found. A new one is a module here that ends in FAMILIES, and a name in MODULES."""

from __future__ import annotations

import importlib

from nemo_workflow.models.families.base import Family

MODULES = (
    "dense",
    "baichuan",
    "chatglm",
    "gemma",
    "starcoder",
    "starcoder2",
    "moe",
    "deepseek",
)
FAMILIES: tuple[Family, ...] = tuple(
    family for name in MODULES for family in importlib.import_module(f"{__name__}.{name}").FAMILIES
)


def by_model_type(model_type: str) -> Family | None:
    """The family of a config.json's model_type."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)
