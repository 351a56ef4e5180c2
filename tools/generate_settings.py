"""Write nemo_workflow/config/settings.py, the typed fields of Settings, from the table of flags.

`python -m tools.generate_settings`, a part of `make generate`; a test says so where the table has changed since.
"""

from __future__ import annotations

from pathlib import Path

from nemo_workflow import PACKAGE
from nemo_workflow.config.flags import TABLE, Option
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import run_command
from nemo_workflow.utils.files import written_aside

FILE = PACKAGE / "config" / "settings.py"

HEAD = '''"""What the user asked for: one typed field a flag. Generated from config/flags.py by `make generate`; don't edit."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_workflow.config.flag_values import FlagValues


@dataclass
class Settings(FlagValues):
    """The value of every flag. Each field's help and the recipe field that it sets stand in config/flags.py."""

'''


def main() -> int:
    """Write the file."""
    Parser(prog="python -m tools.generate_settings", description=__doc__).parse_args()
    with written_aside(Path(FILE)) as stream:
        stream.write(text())
    return 0


def text() -> str:
    """The module as it should be."""
    return HEAD + "".join(f"    {option.attribute}: {annotation(option)} = {default(option)}\n" for option in TABLE)


def annotation(option: Option) -> str:
    """The field's type; a required flag is never None once the command line is read."""
    if option.switch:
        return "bool"
    if option.many:
        return "tuple[str, ...]"
    kind = {"int_or_auto": "int", "int": "int", "float": "float"}.get(option.type.__name__, "str")
    return kind if option.required or option.default is not None else f"{kind} | None"


def default(option: Option) -> str:
    """The field's default, as Python writes it."""
    value = () if option.many else "" if option.required else option.default
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    run_command(main)
