"""The argparse parser that our commands share: no abbreviations, no usage lines before an error, the nearest flag named."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from nemo_workflow.utils.errors import Refusal


class Parser(argparse.ArgumentParser):
    """Raises Refusal where argparse would print its usage and exit; the parsers of subcommands are of this class too."""

    def __init__(self, *args: Any, **keywords: Any):
        super().__init__(*args, **{**keywords, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{message} (see --help)")

    def _get_option_tuples(self, option_string: str) -> Any:
        """argparse lets -m stand for -mbs whatever allow_abbrev says; a value that follows at once (-N2) stays."""
        found = super()._get_option_tuples(option_string)  # type: ignore[misc]
        return [entry for entry in found if entry[1] == option_string or entry[-1] is not None]

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(unknown, set(_spellings(self)))}")
        return found


def nearest(unknown: Sequence[str], known: set[str]) -> str:
    """'; did you mean --X?' for those of the words that look like known flags, or nothing."""
    flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    flags = [flag.replace("_", "-") for flag in flags]
    close = [match for flag in flags for match in difflib.get_close_matches(flag, sorted(known), n=1)]
    return f"; did you mean {' and '.join(dict.fromkeys(close))}?" if close else ""


def _spellings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every flag of a parser and its subcommands, with hyphens."""
    for action in parser._actions:
        yield from (name for name in action.option_strings if "_" not in name)
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _spellings(command)
