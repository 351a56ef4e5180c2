"""`python -m nemo_workflow.training.rank ATTEMPT`: what torchrun starts, once a rank. Trains as ATTEMPT/plan.json says."""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psutil

from nemo_workflow.utils.folder_kinds import PLAN
from nemo_workflow.utils.processes import name_process


def main(attempt: str) -> None:
    """Be the rank that torchrun's variables name."""
    name_process(f"rank {os.environ['RANK']}")
    from nemo_workflow.training.worker import train

    train((Path(attempt) / PLAN).read_text(encoding="utf-8"), attempt)


def number(process: psutil.Process) -> int:
    """Which rank a process is, by its name; -1 for one that is none, or has not got that far."""
    try:
        found = re.fullmatch(r"rank (\d+)", process.name())
    except psutil.Error:
        return -1
    return int(found[1]) if found else -1


def code_of(run: Callable[[], None]) -> int:
    """The exit code of a Python that runs this."""
    try:
        run()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End this process as Python would, but leave all in memory as it is.

    Taking NeMo's modules apart takes a second, and NCCL's communicators may wait there for other ranks.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends a forked process
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    leave(code_of(functools.partial(main, sys.argv[1])))
