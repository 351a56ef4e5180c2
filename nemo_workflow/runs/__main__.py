"""The command line of `runs`: each subcommand lives in the module that adds it."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS
from contextlib import suppress

from nemo_workflow.utils import scratch
from nemo_workflow.utils.arguments import Parser, value_on_line
from nemo_workflow.utils.errors import Refusal, run_command
from nemo_workflow.utils.files import absolute, from_here_if_below
from nemo_workflow.utils.meant import called

HELP = "folder of the experiments"
# what other tools call our subcommands
_COMMANDS = {
    "list": "ls ll ps top jobs history all runs find squeue sacct",
    "show": "info inspect describe view cat details get",
    "logs": "log tail watch follow attach",
    "cancel": "stop kill abort terminate end scancel",
    "resubmit": "resume restart rerun retry continue start relaunch requeue",
    "compare": "diff vs",
    "report": "open plot tensorboard charts html",
    "average": "avg mean merge soup",
    "status": "state stat",
}
_EXPORTED = ["export", "convert"]
_REMOVED = ["rm", "remove", "delete", "del", "clean", "purge", "prune"]
_SAID = {
    "help": "--help prints the help",
    "mv rename": "a run is a folder below --output-dir: keep its name",
    "sample generate": "python -m nemo_workflow.sample continues a text",
    "evaluate eval": "python -m nemo_workflow.evaluate compares losses",
    "train submit new run create": "python pretrain_llm.py starts a run",
}
MEANINGS = called(
    {
        "--output-dir": "dir folder experiments experiment-dir",
        "--now": "force immediately",
        "--follow": "watch",
    },
    {
        "name run experiment job id": "the run's name stands by itself: show NAME",
        "tail lines n": "RUNS logs NAME | tail -n N prints the last lines",
    },
) | {
    f"COMMAND {word}": said
    for words, said in [*((words, f"did you mean {name}?") for name, words in _COMMANDS.items()), *_SAID.items()]
    for word in words.split()
}


def main() -> int:
    """Parse the subcommand and run it; returns the exit code."""
    from nemo_workflow.runs import average, control, overview

    parser = Parser(
        prog="python -m nemo_workflow.runs",
        of_command=lambda word: _of_a_word(word, parser),
        meanings=MEANINGS,
        stands_for=lambda flag, value: _stands_for(flag, value, parser),
        description="Look at and steer the runs below --output-dir, also while they train. COMMAND --help lists a command's flags.",
    )
    parser.add_argument("--output-dir", default=control.OUTPUT_DIR, metavar="DIR", help=f"{HELP} (default %(default)s)")
    parser.takes_no_word = dict.fromkeys(
        ("show", "report", "status", "logs", "cancel", "average"), lambda word: _one_at_a_time(parser)
    )
    parser.takes_no_word |= {
        "list": lambda word: f"`list` shows every run below --output-dir; `show {shlex.quote(word)}` shows one"
    }
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    overview.add_commands(commands)
    control.add_commands(commands)
    average.add_commands(commands)
    parser.meanings |= {f"--{name}": f"a command has no dashes: {name}" for name in commands.choices}
    for command in commands.choices.values():
        command.meanings = parser.meanings
        command.there_are = dict.fromkeys(("NAME", "RUN"), control.there_are)
        # taken after the subcommand too; unset there, the one before it holds
        command.add_argument(
            "--output-dir", default=SUPPRESS, metavar="DIR", help=f"{HELP} (default {control.OUTPUT_DIR})"
        )
    arguments = parser.parse_args()
    if arguments.command is None:
        parser.error(f"COMMAND is required{parser.taken()}: one of {', '.join(commands.choices)}")
    scratch.sweep()  # a run that was killed as a whole has left its folders for temporary files
    try:
        return arguments.run(arguments)
    except PermissionError as error:
        if not error.filename:
            raise
        raise Refusal(f"{error.filename}: {error.strerror}; it is another user's, who can open it to you") from None


def _stands_for(flag: str, value: str, parser: Parser) -> dict[str, str]:
    """This line's words for those in capitals of MEANINGS."""
    from nemo_workflow.runs import control

    named = flag in ("--name", "--run", "--experiment", "--job", "--id")
    return {
        "NAME": value if named else parser.word_alone(1),
        "N": value if value.isdigit() else "20",
        "RUNS": control.typed(),
    }


def _of_a_word(word: str, parser: Parser) -> str:
    """What to say to a word where a subcommand is expected, with this line's own; '' for what MEANINGS says."""
    from nemo_workflow.runs import control

    if word.lower() in _REMOVED:
        return _of_removal(parser)
    if word.lower() in _EXPORTED:
        return f"{control.typed(module='export')} {parser.word_alone(1) or 'RUN'} exports a run"
    return _of_a_run(word)


def _of_a_run(word: str) -> str:
    """What to say to a run's name where a subcommand is expected, or nothing."""
    from nemo_workflow.runs import control, overview

    with suppress(Refusal, OSError):
        overview.open_run(value_on_line("--output-dir", control.OUTPUT_DIR), word)
        return f"did you mean show {shlex.quote(word)}?"
    return ""


def _one_at_a_time(parser: Parser) -> str:
    """What to say to words behind the one run that a subcommand takes: they may be the rest of its name, or further runs."""
    from nemo_workflow.runs import control

    command, *names = parser.alone()
    whole = " ".join(names)
    if control.named_so(whole):
        return f"did you mean {command} {shlex.quote(whole)}?"
    return f"{command} takes one run at a time{control.of_several(command, names)}"


def _of_removal(parser: Parser) -> str:
    """What removes the runs that stand behind `rm`; of one that runs, what ends it first, and of one that isn't there which are."""
    from nemo_workflow.runs import control, overview

    place = value_on_line("--output-dir", control.OUTPUT_DIR)
    names = list(parser.alone())[1:]
    try:
        runs = [overview.open_run(place, name).path for name in names]
    except (Refusal, OSError) as wrong:
        return f"a run is a folder, which rm -r removes; {wrong}"
    if not runs:
        return f"a run is a folder below --output-dir ({place}), which rm -r removes{f'; {there}' if (there := control.there_are()) else ''}"
    remove = shlex.join(["rm", "-r", *map(from_here_if_below, runs)])
    for run in map(absolute, runs):
        if control.active(run):  # by its folder where the name alone wouldn't find it
            ends = control.typed("cancel", run.name if run.parent == absolute(place) else str(run))
            return f"{run.name} is running: {ends} ends it, then {remove}"
    return f"a run is a folder: {remove} removes {'it' if len(runs) == 1 else 'them'}"


if __name__ == "__main__":
    run_command(main)
