"""What Settings can do beside holding a typed field a flag."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any, Self

from nemo_workflow.config.flags import BY_ATTRIBUTE, COMMAND_ATTRIBUTES, Auto, Option


@dataclass
class FlagValues:
    """Base of Settings: which flags the user gave, and the ways in and out of JSON."""

    given: frozenset[str] = field(default=frozenset(), kw_only=True)  # attribute names of the flags that the user gave
    from_file: frozenset[str] = field(default=frozenset(), kw_only=True)  # those of them that stand in --config alone
    worked_out: frozenset[str] = field(default=frozenset(), kw_only=True)  # of these, what a run's plan had worked out

    def of(self, option: Option) -> Any:
        """The value of a row of the table, for code that walks over the table."""
        return getattr(self, option.attribute)

    def public(self) -> dict[str, Any]:
        """Every value that may be written down, ready for JSON: no secrets, no flags of the command itself."""
        values = {option.attribute: self.of(option) for option in BY_ATTRIBUTE.values() if _public(option)}
        return {name: _for_json(value) for name, value in values.items()}

    @classmethod
    def from_public(cls, values: dict[str, Any], given: Collection[str] = ()) -> Self:
        """Back from public(). A flag that is newer than the file has its default, one that is gone is passed over."""
        known = {one.name for one in fields(cls)} - {"given", "from_file", "worked_out"}
        kept = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        values = {name: value for name, value in kept.items() if name in known}
        return cls(**values | {"given": frozenset(given)})


def _for_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Auto) else value


def _public(option: Option) -> bool:
    return not option.secret and option.attribute not in COMMAND_ATTRIBUTES


def profiled(steps: str) -> tuple[int, int]:
    """First and last step of --profile."""
    first, _, last = steps.partition("-")
    return int(first), int(last or first)
