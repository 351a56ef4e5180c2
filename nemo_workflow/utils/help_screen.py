"""`--help` of a command with many flags: a screen for a first run, and all of them by `--help all`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

WIDTH = 100
COLUMN = 34  # where the texts begin
ALL = "all"


def row(names: str, text: str, required: bool) -> Iterator[str]:
    """The lines of one flag: its names, and beside them what it is."""
    names = f"* {names}" if required else f"  {names}"
    lines = textwrap.wrap(text, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False)
    if len(names) < COLUMN - 1:
        yield f"{names:{COLUMN}}{lines[0]}"
    else:
        yield names
        yield " " * COLUMN + lines[0]
    yield from (" " * COLUMN + line for line in lines[1:])


def add_help(parser: argparse.ArgumentParser, usage: str, first: Sequence[str], examples: Sequence[str]) -> None:
    """Give a parser (made with add_help=False) its --help.

    `first` are the long flags of the first screen; those in front of which a * stands are required.
    """

    class Help(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
            if values == ALL:
                parser.formatter_class = _all
                sys.stdout.write(parser.format_help())
            else:
                sys.stdout.write("\n".join(_screen(parser, usage, first, examples)) + "\n")
            parser.exit()

    text = f"this; {ALL}: every flag"
    parser.add_argument(
        "-h", "--help", action=Help, nargs="?", choices=(ALL,), metavar=ALL, default=argparse.SUPPRESS, help=text
    )


def _all(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=WIDTH, max_help_position=COLUMN)


def _screen(
    parser: argparse.ArgumentParser, usage: str, first: Sequence[str], examples: Sequence[str]
) -> Iterator[str]:
    actions = {name: action for action in parser._actions for name in action.option_strings}
    yield from textwrap.wrap(f"usage: {parser.prog} {usage}", WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False)
    yield ""
    yield str(parser.description).rstrip()
    yield ""
    yield "What a first run needs (* is required):"
    for flag in first:
        action = actions.get(flag.lstrip("* "))
        if action is None:  # of a command that has these and more
            continue
        value = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or "")
        names = f"{flag.lstrip('* ')} {f'[{value}]' if action.nargs == '?' else value}".rstrip()
        yield from row(names, str(action.help).replace("%%", "%"), flag.startswith("*"))
    yield ""
    yield "Examples:"
    for example in examples:
        lines = textwrap.wrap(example, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
        yield "  " + " \\\n      ".join(lines)
    yield ""
    yield f"More: --help {ALL}. docs/quickstart.md, docs/preprocess.md."
