"""A stand-in for nemo_run and torchx in a launcher's process: importing them takes 5 s, and starting a rank 20 s.

What counts is what the launcher makes of torchrun's end. The same with NeMo's ranks: tests/e2e/run/test_stopping.py. Imported by the
programs that test_local.py and test_local_exit_codes.py start.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RUNNING, ENDED = "running", "ended"
sys.modules["torchx.specs"] = SimpleNamespace(is_terminal=lambda state: state == ENDED)  # type: ignore[assignment]
_executors = SimpleNamespace(local=lambda *_: None, rendezvous_by_address=contextlib.nullcontext)
sys.modules["nemo_workflow.launch.executors"] = _executors  # type: ignore[assignment]

import nemo_workflow.launch  # noqa: E402

nemo_workflow.launch.executors = _executors  # type: ignore[attr-defined]

from nemo_workflow.config.settings import Settings  # noqa: E402
from nemo_workflow.launch import local as launch  # noqa: E402

for _number in (signal.SIGHUP, signal.SIGINT):  # the tests themselves may run under nohup, or in the background
    signal.signal(_number, signal.SIG_DFL)


def launcher(
    folder: Path, max_steps: int, start: Callable[[], subprocess.Popen[Any]], **settings: Any
) -> launch._Local:
    """A start in `folder` whose torchrun is the process that `start` starts; leaving it waits for the whole run, as nemo_run does."""

    class Experiment:
        def __init__(self, *_: Any, **__: Any):
            self.jobs, self._runner = [self], None

        def add(self, *_: Any, **__: Any) -> None:
            """The task is `start`'s."""

        def run(self) -> None:
            self.torchrun = start()

        def status(self, _: Any) -> str:
            """torchx asks a process that it has started in this way."""
            return RUNNING if self.torchrun.poll() is None else ENDED

        def __enter__(self) -> Experiment:
            return self

        def __exit__(self, *_: Any) -> None:
            self.torchrun.wait()

    run = SimpleNamespace(Experiment=Experiment, Partial=lambda *_, **__: None)
    launch.import_nemo_run = lambda home: run  # type: ignore[assignment,return-value]
    launch.Refresher = lambda folder: SimpleNamespace(finish=lambda seconds: None)  # type: ignore[assignment,misc]
    plan: Any = SimpleNamespace(
        folder=folder, settings=Settings(timeout_minutes=0, global_batch_size=4, **settings), accelerator="cpu", to_json=str,
        schedule=SimpleNamespace(max_steps=max_steps), seq_length=64, layout=SimpleNamespace(ranks=1),
    )  # fmt: skip
    return launch._Local(plan, folder, [])
