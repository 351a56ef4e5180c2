"""Why the ranks of a start have failed, for a person: from torchrun's report and the ranks' own errors."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from nemo_workflow.run_dir.rank_errors import RankError, errors_of

# a failed rank in torchrun's report (torch 2.13, elastic/multiprocessing/errors/__init__.py); the one that it blames is the last
REPORTED = re.compile(r"^\s*rank +: (\d+) [^\n]*\n\s*exitcode +: (-?\d+) ", re.MULTILINE)


def explain_failure(attempt: Path) -> str:
    """The failing rank's own error and the path of its log."""
    errors = errors_of(attempt)
    launcher_log = "\n".join(
        path.read_text(encoding="utf-8", errors="replace") for path in sorted(attempt.glob("launcher/**/std*.log"))
    )
    if reported := {int(rank): int(code) for rank, code in REPORTED.findall(launcher_log)}:
        rank = _first(reported, errors)
        code = reported[rank]
        if code < 0:
            return f"rank {rank} was ended by {signal.Signals(-code).name}; its log: {attempt / f'rank{rank}.log'}{killer(-code)}"
        errors = [error for error in errors if error.rank == rank]
        if not errors:
            return f"rank {rank} ended with exit code {code}; its log: {attempt / f'rank{rank}.log'}"
    if errors:
        first = errors[0]
        text = first.text.rstrip() or "its error could not be written down: is the disk full?"
        return f"rank {first.rank}:\n{text}\nlog of rank {first.rank}: {attempt / f'rank{first.rank}.log'}"
    tail = "\n".join(launcher_log.splitlines()[-15:])
    return f"the ranks did not start:\n{tail}\nlogs: {attempt}"


def killer(number: int) -> str:
    """Who else ends processes by this signal than somebody who means it; '' for any other."""
    return "; the kernel does so where memory runs out" if number == signal.SIGKILL else ""


def _first(reported: dict[int, int], errors: list[RankError]) -> int:
    """The rank that failed first. Of two that torchrun finds dead in one look it blames the lower number."""
    *_, blamed = reported
    following = {error.rank for error in errors if error.lost_peer}
    if blamed not in following:
        return blamed
    own = [error.rank for error in errors if error.rank not in following]
    return next((rank for rank in [*own, *reported] if rank in reported and rank not in following), blamed)
