"""The command line of `runs`: each subcommand lives in the module that adds it."""

from __future__ import annotations

from argparse import SUPPRESS

from nemo_workflow.utils import scratch
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import run_command

HELP = "folder of the experiments"


def main() -> int:
    """Parse the subcommand and run it; returns the exit code."""
    from nemo_workflow.runs import average, control, overview

    parser = Parser(
        prog="python -m nemo_workflow.runs",
        description="Look at and steer the runs below --output-dir, also while they train. COMMAND --help lists a command's flags.",
    )
    parser.add_argument("--output-dir", default=control.OUTPUT_DIR, metavar="DIR", help=f"{HELP} (default %(default)s)")
    parser.takes_no_word = {"list": "`list` shows every run below --output-dir; `show NAME` shows one"}
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    overview.add_commands(commands)
    control.add_commands(commands)
    average.add_commands(commands)
    for command in commands.choices.values():  # taken after the subcommand too; unset there, the one before it holds
        command.add_argument("--output-dir", default=SUPPRESS, metavar="DIR", help=HELP)
    arguments = parser.parse_args()
    if arguments.command is None:
        parser.error(f"COMMAND is required{parser.taken()}: one of {', '.join(commands.choices)}")
    scratch.sweep()  # a run that was killed as a whole has left its folders for temporary files
    return arguments.run(arguments)


if __name__ == "__main__":
    run_command(main)
