"""YAML whose scalars stay as they were written: by itself it makes 83 of 0123, 14400 of 4:00:00 and True of yes."""

from __future__ import annotations

from typing import Any

import yaml

NUMBERS_AND_TEXT = ("str", "bool", "int", "float", "timestamp", "value")


class Scalar(str):
    """A scalar as it stands in the file; `kind` is what YAML alone takes it for, such as "int" or "str"."""

    kind: str

    def __repr__(self) -> str:
        if self.kind == "bool":
            return repr(truth(self))
        return super().__repr__() if self.kind == "str" else str(self)


def load(text: str) -> Any:
    """Dicts and lists of Scalars; null, ~ and nothing at all are None. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def truth(scalar: Scalar) -> bool:
    """What a scalar of kind "bool" says."""
    return yaml.SafeLoader.bool_values[scalar.lower()]


class _Loader(yaml.SafeLoader):
    pass


def _as_written(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Scalar:
    scalar = Scalar(loader.construct_scalar(node))
    scalar.kind = node.tag.rpartition(":")[2]
    return scalar


for _name in NUMBERS_AND_TEXT:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _as_written)
