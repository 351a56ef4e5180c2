"""Subcommands that only read a run's own files: list, show, report, compare."""

from __future__ import annotations

from typing import Any


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser; each sets `run`, a function of the parsed arguments."""
