"""Subcommands that follow and steer a run: status, logs, cancel, resubmit."""

from __future__ import annotations

from typing import Any


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser; each sets `run`, a function of the parsed arguments."""
