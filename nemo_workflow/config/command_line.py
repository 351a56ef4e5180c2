"""The command line, a --config file and the environment -> Settings, or every problem with them."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nemo_workflow.config import runs_config
from nemo_workflow.config.config_file import attribute_of, line_of, read_config, read_runs_config
from nemo_workflow.config.flags import BY_ATTRIBUTE, GROUPS, TABLE, Option
from nemo_workflow.config.help import Help, described, metavar
from nemo_workflow.config.settings import Settings
from nemo_workflow.config.synonyms import EPOCHS, MEANINGS
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal

# a flag of the command line -> the flag that it excludes: one in the file gives way, as a second value of the same flag would
INSTEAD = {"dataset_dir": "blend", "blend": "dataset_dir"}


def parser() -> Parser:
    """The argparse parser built from the table; every value it returns is one that the user gave."""
    made = Parser(
        prog="pretrain_llm.py",
        description="Pretrain a language model with NVIDIA NeMo 2.0, on this machine or on a Slurm cluster.",
        add_help=False,
        argument_default=argparse.SUPPRESS,
        meanings=MEANINGS,
    )
    made.may_be_empty = {option.attribute for option in TABLE if option.may_be_empty}
    made.any_text.add("sample")
    made.refused_without = {option.attribute for option in TABLE if option.required}
    made.secret = {f"--{option.name}" for option in TABLE if option.secret}
    made.add_argument("-h", "--help", action=Help)
    groups = {name: made.add_argument_group(name) for name in GROUPS}
    for option in TABLE:
        add_flag(groups[option.group], option)
    return made


def add_flag(group: Any, option: Option, text: str | None = None, **more: Any) -> None:
    """Add a row of the table to a group of a parser; `text` replaces its help."""
    help_text = (text or described(option)).replace("%", "%%")
    keywords: dict[str, Any] = {"dest": option.attribute, "help": help_text, **more}
    if option.switch:
        keywords["action"] = "store_true"
    else:
        keywords |= {"type": option.from_command_line, "metavar": metavar(option)}
        if option.choices:
            keywords |= {"choices": option.choices, "metavar": "{" + ",".join(option.choices) + "}"}
        if option.many:
            keywords["action"] = "append"
        if option.words:
            keywords |= {"nargs": "+", "type": str}
        if option.bare is not None:
            keywords |= {"nargs": "?", "const": option.bare}
    group.add_argument(*option.spellings, **keywords)


def parse(argv: Sequence[str], steps_of: Callable[[Settings, float], int | None] | None = None) -> Settings:
    """Flags over --config over the environment (secrets only) over defaults; raises Refusal.

    `steps_of` tells who asks for epochs, as other tools let him, how many steps they are: of a run with these settings.
    """
    made = parser()
    made.meanings = _meanings(argv, steps_of)
    flags = vars(made.parse_args(argv))
    flags = {name: _joined(name, value) if isinstance(value, list) else value for name, value in flags.items()}
    from_file, worked_out = read_runs_config(flags["config"]) if "config" in flags else ({}, frozenset[str]())
    for name, instead in INSTEAD.items():
        if name in flags and instead in from_file:
            del from_file[instead]
            replaced = f"{BY_ATTRIBUTE[instead].name} of --config {flags['config']}{line_of(flags['config'], instead)}"
            print(f"note: --{BY_ATTRIBUTE[name].name} replaces {replaced}", file=sys.stderr)
    if "config" in flags:
        runs_config.check_place(flags, from_file)
        worked_out = runs_config.still_worked_out(flags, from_file, worked_out & from_file.keys() - flags.keys())
    given = {**from_file, **flags}
    values = {option.attribute: _default(option) for option in TABLE} | given
    missing = [o for o in TABLE if o.required and not values[o.attribute] and not (o.unless and values[o.unless])]
    if missing and not _stops_early(values):
        raise Refusal([f"--{o.name}{f' (or --{o.unless})' if o.unless else ''} is required: {o.help}" for o in missing])
    typed = {name: value for name, value in values.items() if value is not None}  # a required flag may be left out
    in_file = frozenset(from_file.keys() - flags.keys())
    return Settings(**typed, given=frozenset(given), from_file=in_file, worked_out=worked_out)


def _meanings(argv: Sequence[str], steps_of: Callable[[Settings, float], int | None] | None) -> dict[str, str]:
    """What other tools call our flags; of epochs the steps that they are, and where the --config file has others, in which line."""
    words = dict(enumerate(argv))
    asked = [word for word in argv if word.partition("=")[0].replace("_", "-") in EPOCHS]
    if not asked:
        return MEANINGS
    steps_said = _epochs_as_steps(argv, steps_of) if steps_of else ""
    files = [
        words.get(at + 1, "") if word == "--config" else word[9:]
        for at, word in words.items()
        if word[:8] == "--config"
    ]
    try:
        steps = read_config(files[-1]).get("max_steps") if files else None
    except Refusal:  # which is said in its own place
        steps = None
    if steps is None:
        return {**MEANINGS, **dict.fromkeys(EPOCHS, steps_said)} if steps_said else MEANINGS
    said = (
        f"--config {files[-1]}{line_of(files[-1], 'max_steps')} says max-steps {steps}, which --max-steps N on the command line"
        f" replaces; {steps_said or 'without that line it is one epoch'}"
    )
    return {**MEANINGS, **dict.fromkeys(EPOCHS, said)}


def _epochs_as_steps(argv: Sequence[str], steps_of: Callable[[Settings, float], int | None]) -> str:
    """'3 epochs of this data are 270 steps: --max-steps 270'; empty where the rest of the command line doesn't tell."""
    rest, epochs, words = [], "", iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.replace("_", "-") in EPOCHS:
            epochs = value if equals else next(words, "")
        else:
            rest.append(word)
    try:
        count = float(epochs)
        with contextlib.redirect_stderr(io.StringIO()):  # notes, which come once more
            settings = parse(rest)
            steps = steps_of(settings, count)
    except (ValueError, Refusal):  # no number, or what is said in its own place
        return ""
    if steps is None or not 0 < count < math.inf:
        return ""
    named = "1 epoch of this data is" if count == 1 else f"{count:g} epochs of this data are"
    if not steps:
        return f"{named} less than one step of --global-batch-size {settings.global_batch_size}: lower it, or add data"
    return f"{named} {counted(steps, 'step')}: --max-steps {steps}"


@contextlib.contextmanager
def places_named(settings: Settings) -> Iterator[None]:
    """What is refused inside says of a flag that nobody typed where it is set: in the file of --config."""
    try:
        yield
    except Refusal as refusal:
        raise Refusal([f"{problem}{_place(problem, settings)}" for problem in refusal.problems]) from None


def _place(problem: str, settings: Settings) -> str:
    named = [attribute_of(name) for name in re.findall(r"--([a-z][\w-]*)", problem.partition(": ")[0])]
    found = [name for name in dict.fromkeys(named) if name in settings.from_file]
    if not found:
        return ""
    keys = [BY_ATTRIBUTE[name].name for name in found]
    where = "".join(line_of(str(settings.config), name) for name in found[:1]) if len(found) == 1 else ""
    return f" ({' and '.join(keys)} {'is' if len(keys) == 1 else 'are'} set in --config {settings.config}{where})"


def _stops_early(values: dict[str, Any]) -> bool:
    """Whether the command needs no data and no tokenizer: it prints something else than the plan of a run."""
    return values["version"] or any(
        values[name] is not None for name in ("list_models", "suggest", "calibrate", "completion")
    )


def _joined(name: str, value: list[Any]) -> Any:
    option = BY_ATTRIBUTE[name]
    if not option.words:
        return tuple(value)
    try:
        return option.from_yaml(" ".join(value))
    except ValueError as error:
        raise Refusal(f"--{option.name} {' '.join(value)}: {error}") from None


def _default(option: Option) -> Any:
    if option.env:
        return os.environ.get(option.env)
    return () if option.many else option.default


def export_secrets(settings: Settings) -> None:
    """Put the secrets of this run into the environment, which local ranks inherit; they are written nowhere."""
    for option in TABLE:
        if option.env and settings.of(option):
            os.environ[option.env] = settings.of(option)
