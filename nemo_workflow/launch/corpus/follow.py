"""Follow a preprocessing job to its end."""

from __future__ import annotations

import sys
from pathlib import Path

from nemo_workflow.launch.slurm.follow import Follower
from nemo_workflow.run_dir.slurm_jobs import Job

KEPT = "finished pieces are kept; the same command continues with the others"


def follow_job(submitted: list[Job]) -> int:
    """Print what the nodes print until the last job has ended; returns the exit code. Raises Failure if one failed."""
    for job in submitted:
        printed = Printed(job)
        code = Follower(job, printed, lambda: KEPT).run()
        if code or job is submitted[-1]:
            return code
    raise AssertionError("no job")


class Printed:
    """What a job's nodes have written to its log."""

    cancelled = "the nodes stop, and keep the pieces that are finished"

    def __init__(self, job: Job):
        self.job = job
        self.shown: dict[Path, int] = {}

    def update(self) -> None:
        for path in self.job.logs():
            with path.open("rb") as stream:
                stream.seek(self.shown.get(path, 0))
                text = stream.read()
                self.shown[path] = stream.tell()
            sys.stdout.write(text.decode("utf-8", errors="replace"))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        """Nothing stays open."""
