"""Write report.html again from a training or its launcher without holding it up: a process of low priority."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from nemo_workflow import REPOSITORY
from nemo_workflow.utils.processes import import_path

LEAST_SECONDS = 20.0  # between two reports of a running training


class Refresher:
    """One writer at a time; a call while it works, or too soon after the last one, is left out.

    `wait` seconds pass before the first: a writer takes a second of CPU time, and a short run needs its last report only.
    """

    def __init__(self, folder: Path, wait: float = 0.0):
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic() + wait - LEAST_SECONDS

    def refresh(self) -> None:
        """Start a writer; returns at once. What it complains of goes to this process's stderr."""
        busy = self.process is not None and self.process.poll() is None
        if busy or time.monotonic() - self.began < LEAST_SECONDS:
            return
        self.began = time.monotonic()
        self.process = _start(self.folder, "--running")

    def finish(self, seconds: float) -> None:
        """Write the last report and wait for it, `seconds` at most."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # the last one writes all that it would
            self.process.wait()
        last = _start(self.folder)
        if last is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                last.wait(timeout=seconds)


def _start(folder: Path, *flags: str) -> subprocess.Popen[bytes] | None:
    with contextlib.suppress(OSError):
        command = [sys.executable, "-m", "nemo_workflow.report", str(folder), *flags]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())
    return None


def environment() -> dict[str, str]:
    """Ours, with the package that runs now on the import path."""
    return os.environ | {"PYTHONPATH": import_path(REPOSITORY)}
