"""A stand-in for torchrun in a launcher's process: starting a rank takes 20 s.

What counts is what the launcher makes of torchrun's end. The same with NeMo's ranks: tests/e2e/run/test_stopping.py. Imported by the
programs that test_local.py and test_local_exit_codes.py start.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nemo_workflow.config.settings import Settings
from nemo_workflow.launch import local as launch

for _number in (signal.SIGHUP, signal.SIGINT):  # the tests themselves may run under nohup, or in the background
    signal.signal(_number, signal.SIG_DFL)


def launcher(
    folder: Path, max_steps: int, start: Callable[[], subprocess.Popen[Any]], **settings: Any
) -> launch._Local:
    """A start in `folder` whose torchrun is the process that `start` starts."""
    launch.ranks = SimpleNamespace(started=lambda *_: start())  # type: ignore[assignment]
    launch.Refresher = lambda folder: SimpleNamespace(finish=lambda seconds: None)  # type: ignore[assignment,misc]
    plan: Any = SimpleNamespace(
        folder=folder, settings=Settings(timeout_minutes=0, global_batch_size=4, **settings), accelerator="cpu", to_json=str,
        schedule=SimpleNamespace(max_steps=max_steps), seq_length=64, layout=SimpleNamespace(ranks=1),
    )  # fmt: skip
    return launch._Local(plan, folder, [])
