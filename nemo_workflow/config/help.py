"""What `pretrain_llm.py --help` prints: a screen for a first run, a group by its word, or all flags."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from nemo_workflow.config import flags
from nemo_workflow.config.flags import GROUPS, TABLE, Option, type_name
from nemo_workflow.utils import help_screen
from nemo_workflow.utils.help_screen import ALL, WIDTH

TOPICS = {
    "run": flags.EXECUTION,
    "slurm": flags.SLURM,
    "hardware": flags.HARDWARE,
    "model": flags.MODEL_GROUP,
    "training": flags.TRAINING,
    "optimizer": flags.OPTIMIZER,
    "parallel": flags.PARALLEL,
    "data": flags.DATA,
    "checkpoints": flags.CHECKPOINTS,
    "logging": flags.LOGGING,
    "recompute": flags.RECOMPUTE,
    "offloading": flags.OFFLOAD,
}
# what a first run needs or soon asks for, in the order of thought
FIRST = (
    "hf-model-id", "dataset-dir", "model-name", "experiment", "num-gpus", "accelerator", "max-steps", "global-batch-size",
    "micro-batch-size", "seq-length", "lr", "sample", "config", "dry-run", "layout", "list-models",
)  # fmt: skip
EXAMPLES = (
    "python pretrain_llm.py --config examples/laptop.yaml -E my_run",
    "python pretrain_llm.py -M llama_125m --hf-model-id openai-community/gpt2 --dataset-dir my_data",
)
EXIT_CODES = (
    "exit codes: 0 done, 1 the run failed, 2 refused before anything was started,"
    " 129/130/138/143 stopped by SIGHUP/Ctrl-C/SIGUSR1/SIGTERM"
)


class Help(argparse.Action):
    """-h and --help, with or without the word of a group."""

    def __init__(self, option_strings: list[str], dest: str, **_: Any):
        super().__init__(
            option_strings, dest, nargs="?", metavar="GROUP", help="this; GROUP: one group of flags, or all"
        )
        self.default = argparse.SUPPRESS
        self.choices = (ALL, *TOPICS)

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        sys.stdout.write(text(values))
        parser.exit()


def text(topic: str | None) -> str:
    """The help as a whole: the first screen, one of TOPICS, or ALL."""
    if topic is None:
        return "\n".join(_short()) + "\n"
    shown = GROUPS if topic == ALL else (TOPICS[topic],)
    words = {group: word for word, group in TOPICS.items()}
    lines = [_USAGE, "", "Names may be written with underscores too. * is required."]
    for group in shown:
        lines += ["", f"{group} (--help {words[group]}):"]
        lines += _rows(option for option in TABLE if option.group == group)
    return "\n".join([*lines, "", *textwrap.wrap(EXIT_CODES, WIDTH)]) + "\n"


_USAGE = "usage: pretrain_llm.py --hf-model-id ID --dataset-dir DIR [-M RECIPE] [FLAG …]"


def _short() -> Iterator[str]:
    by_name = {option.name: option for option in TABLE}
    yield _USAGE
    yield ""
    yield "Pretrain a language model with NVIDIA NeMo 2.0, on this machine or on a Slurm cluster."
    yield ""
    yield "What a first run needs (* is required):"
    yield from _rows(by_name[name] for name in FIRST)
    yield ""
    yield "Examples:"
    yield from (f"  {example}" for example in EXAMPLES)
    yield ""
    yield from textwrap.wrap(
        f"More: --help all, or --help GROUP of {', '.join(TOPICS)}. docs/quickstart.md, docs/flags.md.", WIDTH
    )


def _rows(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        yield from help_screen.row(_names(option), described(option), option.required)


def _names(option: Option) -> str:
    name = ", ".join([*option.short, f"--{option.name}"])
    if option.switch:
        return name
    value = "|".join(option.choices) if 0 < len("|".join(option.choices)) <= 20 else metavar(option)
    return f"{name} [{value}]" if option.bare is not None else f"{name} {value}"


def metavar(option: Option) -> str:
    """The word that stands for the value."""
    return option.metavar or type_name(option).upper().split()[0]


def described(option: Option) -> str:
    """The help text with its default and what stands in for a required flag."""
    found = option.help
    if option.unless:
        found += f" (or --{option.unless})"
    if option.default not in (None, False):
        found += f" (default {option.default})"
    return found
