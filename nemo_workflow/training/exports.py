"""--export-hf in the ranks: a process beside the training that exports what was saved, and on Slurm the last export."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import export_process
from nemo_workflow.run_dir.checkpoints import Checkpoint
from nemo_workflow.training.liveness import LAUNCHER

LAST_EXPORT = "exported"  # in an attempt: rank 0 has ended its last export
WAIT_SECONDS = 1.0


class Exports(pl.Callback):
    """Exports a checkpoint that was saved, one at a time and at the lowest priority; no step waits for it. Rank 0's.

    What is saved while one is exported is left out: the next save is newer. The last checkpoint is exported when the
    training has ended: by the launcher on this machine, or by `last`.
    """

    def __init__(self, plan: Plan, run_log: Any, attempt: Path):
        self.plan, self.run_log, self.words = plan, run_log, attempt / export_process.LOG
        self.source: Path | None = None  # the checkpoint that is read, and must stay
        self._step, self._began = 0, 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def saved(self, path: Path, step: int) -> None:
        """Start an export, unless one goes on; returns at once."""
        if self._process is None and step < self.plan.schedule.max_steps:
            self._start(path, step, "--beside-training")

    def on_train_batch_end(self, *_: Any) -> None:
        self.look()

    def look(self) -> bool:
        """Tell an export that has ended; whether one still goes on."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return True
        hub = self.plan.settings.push_to_hub if self._step == self.plan.schedule.max_steps else None
        problem = self._problem(code) if code else None
        seconds = time.monotonic() - self._began
        self._process = self.source = None
        self.run_log.event("export", **export_process.event(self.plan.folder, self._step, seconds, problem, hub))
        return False

    def last(self, path: Path, step: int) -> None:
        """Export the last checkpoint and wait for it, after an export that still goes on."""
        while self.look():
            self._beat()
        hub = self.plan.settings.push_to_hub
        self._start(path, step, *(["--push-to-hub", hub] if hub else []))
        while self.look():
            self._beat()

    def _beat(self) -> None:
        self.run_log.heartbeat.beat()  # this is no hang
        time.sleep(WAIT_SECONDS)

    def _start(self, path: Path, step: int, *more: str) -> None:
        self.source, self._step, self._began = path, step, time.monotonic()
        try:
            self._process = export_process.start(self.plan.folder, step, self.words, *more)
        except OSError as error:
            self.source = None
            self.run_log.event("export", **export_process.event(self.plan.folder, step, 0.0, str(error)))

    def _problem(self, code: int) -> str:
        """The export's own last line."""
        if code < 0:
            return f"it was ended by signal {-code}: did the node run out of memory? {self.words} has its output"
        lines = self.words.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"


def after_slurm_training(exports: Exports | None, plan: Plan, attempt: Path, newest: Checkpoint | None) -> None:
    """Where no launcher waits for the ranks, rank 0 exports the last checkpoint; the others wait, for srun ends them else."""
    if not plan.settings.export_hf or LAUNCHER in os.environ:
        return
    mark = attempt / LAST_EXPORT
    if exports is not None:
        try:
            if newest is not None:
                exports.last(newest.path, newest.step)
        finally:
            mark.touch()
    while not mark.exists():
        time.sleep(WAIT_SECONDS)
