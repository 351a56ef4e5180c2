"""The table of options as Markdown: `python -m nemo_workflow.option_tables` writes docs/flags.md."""

from __future__ import annotations

from pathlib import Path

from nemo_workflow.files import written_aside
from nemo_workflow.options import COMMAND_ATTRIBUTES, GROUPS, TABLE, Option, type_name

FILE = Path(__file__).parent.parent / "docs" / "flags.md"
HEAD = """# Flags of pretrain_llm.py

Generated from the table of options by `python -m nemo_workflow.option_tables`. Every long name can be written with
hyphens or with underscores. All but those marked (command line) can stand in a `--config` file under their long names.
"""


def markdown(level: int = 2) -> str:
    """A heading of `level` and a table for each group of options."""
    return "\n".join(f"{'#' * level} {group}\n\n{table(group)}" for group in GROUPS)


def table(group: str) -> str:
    """The options of one group, a row each."""
    rows = ["| Parameter | Type | Default | Description | Recipe field |", "|---|---|---|---|---|"]
    rows += [_row(option) for option in TABLE if option.group == group]
    return "\n".join(rows) + "\n"


def _row(option: Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.short, *_longs(option)))
    text = option.help.replace("|", "\\|")
    if option.choices:
        text += f" ({', '.join(f'`{choice}`' for choice in option.choices)})"
    if option.attribute in COMMAND_ATTRIBUTES:
        text += " (command line)"
    fields = ", ".join(f"`{path}`" for path in option.sets)
    return f"| {names} | {type_name(option)} | {_default(option)} | {text} | {fields} |"


def _longs(option: Option) -> list[str]:
    return [f"--{name}" for name in (option.name, *option.aliases)]


def _default(option: Option) -> str:
    if option.required:
        return "**(required)**"
    if option.env:
        return f"`${option.env}`"
    if option.switch:
        return "`false`"
    return f"`{option.default}`" if option.default is not None else "unset"


def main() -> None:
    """Write docs/flags.md."""
    with written_aside(FILE) as stream:
        stream.write(HEAD + "\n" + markdown())


if __name__ == "__main__":
    main()
