"""`python -m nemo_workflow.report RUN`: write RUN/report.html. What a running training calls, at low priority."""

from __future__ import annotations

import os
from pathlib import Path

from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs import control
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Failure
from nemo_workflow.utils.meant import called

MEANINGS = called(
    {},
    {
        "run name experiment": "the run's folder stands by itself: python -m nemo_workflow.report RUN",
        "output out o": "python -m nemo_workflow.runs report NAME --output FILE writes it anywhere",
        "output-dir": "python -m nemo_workflow.runs report NAME --output-dir DIR finds the run there",
    },
)


def main() -> int:
    """Exit code 1 with one line when the plotting library is missing."""
    parser = Parser(
        prog="python -m nemo_workflow.report",
        description=__doc__,
        meanings=MEANINGS,
        stands_for=lambda flag, value: {"RUN": value, "FILE": value, "DIR": value, "NAME": parser.word_alone()},
    )
    parser.there_are = {"RUN": control.there_are}
    parser.takes_no_word = {
        "": lambda word: f"it takes one run at a time{control.of_several('report', [*parser.alone()])}"
    }
    parser.add_argument("run", type=Path, help=f"folder of the run, or its name below {control.OUTPUT_DIR}")
    parser.add_argument("--running", action="store_true", help="the run is still training; work at low priority")
    arguments = parser.parse_args()
    run = control.run_folder(arguments.run)
    if arguments.running:
        os.nice(19)
    from nemo_workflow.runs.report.page import write_report

    try:
        written = write_report(RunFolder(run, locked=(lambda path: os.getppid()) if arguments.running else None))
    except ModuleNotFoundError as missing:
        raise Failure(
            f"report.html needs {missing.name}: pip install bokeh, then python -m nemo_workflow.runs report"
        ) from None
    if not arguments.running:
        print(written)
    return 0
