"""Modules that tests import when they use them: collecting them all stays quick, and what pytest forks stays small."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _Later:
    """Stands for a module that is imported at the first use of something in it."""

    __slots__ = ("_name",)

    def __init__(self, name: str):
        object.__setattr__(self, "_name", name)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """By which monkeypatch tells whether an attribute was there before."""
        return vars(_module(self))

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or attribute == "_mock_name":  # pytest asks whether it is a test or a fixture
            raise AttributeError(attribute)
        return getattr(_module(self), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(_module(self), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(_module(self), attribute)


def _module(stand_in: _Later) -> ModuleType:
    return importlib.import_module(object.__getattribute__(stand_in, "_name"))


def later(name: str) -> Any:
    """The module `name`, which is not imported yet. torch takes 1.4 s and 200 MB, NeMo 10 s and a gigabyte."""
    return _Later(name)
