"""Which rank is blamed for the end of a start: torch's own report of failed ranks, and the errors that they leave."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nemo_workflow.launch.failures import explain_failure
from nemo_workflow.run_dir.rank_errors import errors_of

LOST = "Traceback (most recent call last):\n  frame\nRuntimeError: Read error [127.0.0.1]:28576: Connection reset by peer. Check the logs\n"
OWN = "Traceback (most recent call last):\n  frame\nValueError: the cause\n"


def report(codes: dict[int, int]) -> str:
    """What torchrun writes of ranks that it found dead in one look, in the order of their numbers."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    failures = {
        rank: ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=code, error_file="")
        for rank, code in codes.items()
    }
    return str(ChildFailedError("worker", failures))


@pytest.mark.parametrize(
    ("codes", "errors", "said"),
    [
        ({0: 1, 1: -signal.SIGKILL}, {0: LOST}, "rank 1 was ended by SIGKILL; its log: "),
        ({0: -signal.SIGSEGV, 1: 1}, {1: LOST}, "rank 0 was ended by SIGSEGV; its log: "),
        ({0: 1, 1: 1}, {0: LOST, 1: OWN}, "rank 1:\nTraceback (most recent call last):\n  frame\nValueError: the cause\nlog of rank 1: "),
        ({0: 1, 1: 1}, {0: OWN, 1: LOST}, "rank 0:\nTraceback (most recent call last):\n  frame\nValueError: the cause\nlog of rank 0: "),
        ({0: 1, 1: 1, 2: 5}, {0: LOST, 1: LOST}, "rank 2 ended with exit code 5; its log: "),
        ({1: 1}, {0: LOST, 1: LOST}, f"rank 1:\n{LOST}log of rank 1: "),  # torchrun ended rank 0, and nobody knows the cause
        ({1: -signal.SIGABRT}, {0: OWN}, "rank 1 was ended by SIGABRT; its log: "),
        ({0: 1}, {0: ""}, "rank 0:\nits error could not be written down: is the disk full?\nlog of rank 0: "),
        ({}, {0: LOST, 2: OWN}, "rank 2:\nTraceback (most recent call last):\n  frame\nValueError: the cause\nlog of rank 2: "),
        ({}, {}, "the ranks did not start:\nsome words\nlogs: "),
    ],
)  # fmt: skip
def test_the_rank_that_failed_first_is_named(
    codes: dict[int, int], errors: dict[int, str], said: str, tmp_path: Path
) -> None:
    logs = tmp_path / "launcher" / "ranks"
    logs.mkdir(parents=True)
    (logs / "stderr.log").write_text(report(codes) if codes else "some words")
    for rank, text in errors.items():
        (tmp_path / f"rank{rank}.error").write_text(f"{10.0 + rank}\n{text}" if text else "")
    found = explain_failure(tmp_path)
    assert found.startswith(said)
    assert ("memory" in found) == ("SIGKILL" in said)


def test_an_error_that_follows_from_another_comes_last(tmp_path: Path) -> None:
    for rank, when, text in ((0, 9.0, LOST), (1, 100.0, OWN), (10, 20.0, OWN)):
        (tmp_path / f"rank{rank}.error").write_text(f"{when}\n{text}")
    assert [(error.rank, error.lost_peer) for error in errors_of(tmp_path)] == [(10, False), (1, False), (0, True)]
    assert errors_of(tmp_path)[0].message == "ValueError: the cause"
