"""The line that a person sees, where nobody sees it any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.utils.console import human_count
from tests.e2e.run.harness import REPOSITORY

PROGRAM = """
import sys
from nemo_workflow.utils.console import Meter
from nemo_workflow.utils.errors import run_command
def main():
    sys.stdin.readline()
    meter = Meter(sys.stdout, outlive=sys.argv[1] == "outlive")
    for _ in range(3):
        meter.note("a note")
        meter.show("a step", always=True)
        meter.close()
    print("of someone else", flush=True)
    print("done", file=sys.stderr)
run_command(main)
"""


@pytest.mark.parametrize(("kind", "code", "told"), [("outlive", 0, "done\n"), ("", 141, "")])
def test_a_closed_pipe_ends_only_what_is_made_to_be_seen(kind: str, code: int, told: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr and process.stdin
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    errors = process.stderr.read()
    assert process.wait(30) == code and errors == told


def test_a_log_on_a_full_disk_goes_on_when_there_is_room() -> None:
    """/dev/full says that the disk is full; it stays the log."""
    program = PROGRAM.replace('print("of', 'import os; assert os.readlink("/proc/self/fd/1") == "/dev/full"; #')
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "outlive"], cwd=REPOSITORY, input="\n", text=True, stdout=full,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.stderr.startswith("done\n")


@pytest.mark.parametrize(
    ("count", "said"),
    [(999, "999"), (1000, "1k"), (999_700_000, "1B"), (1_234_567, "1.23M"), (999.4, "999"), (5e15, "5e+03T")],
)
def test_a_count_is_short(count: float, said: str) -> None:
    assert human_count(count) == said
