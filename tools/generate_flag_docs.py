"""The table of options as Markdown: `python -m tools.generate_flag_docs` writes docs/flags.md and the README's part."""

from __future__ import annotations

from nemo_workflow import REPOSITORY
from nemo_workflow.config.flags import COMMAND_ATTRIBUTES, GROUPS, TABLE, Option, type_name
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import run_command
from nemo_workflow.utils.files import written_aside

FILE = REPOSITORY / "docs" / "flags.md"
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- flags: begin -->\n", "<!-- flags: end -->\n"
HEAD = """# Flags of pretrain_llm.py

Generated from the table of options by `python -m tools.generate_flag_docs`. Every long name can be written with
hyphens or with underscores. All but those marked (command line) can stand in a `--config` file under their long names.
"""


def markdown(level: int = 2) -> str:
    """A heading of `level` and a table for each group of options."""
    return "\n".join(f"{'#' * level} {group}\n\n{table(group)}" for group in GROUPS)


def table(group: str) -> str:
    """The options of one group, one row each."""
    rows = ["| Parameter | Type | Default | Description | Recipe field |", "|---|---|---|---|---|"]
    rows += [_row(option) for option in TABLE if option.group == group]
    return "\n".join(rows) + "\n"


def guide_markdown() -> str:
    """The guide's own flags, as the README has them: a table for each group that has one."""
    parts = []
    for group in GROUPS:
        options = [option for option in TABLE if option.group == group and option.guide]
        if options:
            rows = ["| Parameter | Type | Default | Description |", "|---|---|---|---|"]
            parts.append("\n".join([f"### {group}\n", *rows, *(_row(o, fields=False) for o in options)]) + "\n")
    return "\n".join(parts)


def with_tables(readme: str) -> str:
    """The README's text with the tables between its two markers made again."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{guide_markdown()}\n{END}{tail}"


def _row(option: Option, fields: bool = True) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.short, *_longs(option)))
    text = option.help.replace("|", "\\|")
    if option.choices:
        text += f" ({', '.join(f'`{choice}`' for choice in option.choices)})"
    if option.attribute in COMMAND_ATTRIBUTES:
        text += " (command line)"
    row = f"| {names} | {type_name(option)} | {_default(option)} | {text} |"
    return row + (f" {', '.join(f'`{path}`' for path in option.sets)} |" if fields else "")


def _longs(option: Option) -> list[str]:
    return [f"--{name}" for name in (option.name, *option.aliases)]


def _default(option: Option) -> str:
    if option.required:
        return f"**(required, or `--{option.unless}`)**" if option.unless else "**(required)**"
    if option.env:
        return f"`${option.env}`"
    if option.switch:
        return "`false`"
    return f"`{option.default}`" if option.default is not None else "unset"


def main() -> None:
    """Write docs/flags.md and the tables in the README."""
    Parser(
        prog="python -m tools.generate_flag_docs",
        description="Write docs/flags.md and the tables in README.md from the table of options.",
    ).parse_args()
    with written_aside(FILE) as stream:
        stream.write(HEAD + "\n" + markdown())
    text = with_tables(README.read_text(encoding="utf-8"))
    with written_aside(README) as stream:
        stream.write(text)


if __name__ == "__main__":
    run_command(main)
