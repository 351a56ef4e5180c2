"""The command line of `runs`: each subcommand lives in the module that adds it."""

from __future__ import annotations

import argparse

from nemo_workflow.errors import run_command
from nemo_workflow.runs import control, overview


def main() -> int:
    """Parse the subcommand and run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nemo_workflow.runs", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--output-dir", default="nemo_experiments", help="folder of the experiments (default %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    overview.add_commands(commands)
    control.add_commands(commands)
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    run_command(main)
