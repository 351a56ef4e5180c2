"""nemo_run, imported for one run's folder, and in a quarter of the time."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from nemo_workflow.backends import deferred
from nemo_workflow.utils.libraries import collector_paused

TITLE = "pretrain"  # of all experiments of nemo_run's, and of Slurm jobs


def import_nemo_run(home: Path) -> ModuleType:
    """The module. Its files will lie in `home`, which it reads at its first import, and none in the user's home."""
    os.environ["NEMORUN_HOME"] = str(home)
    deferred.install()
    hidden = "torch" not in sys.modules
    if hidden:  # half of the import's time, for writing torch.dtype into YAML, which we never do
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        with collector_paused():  # half of what is left
            import nemo_run
    finally:
        if hidden:
            del sys.modules["torch"]
    return nemo_run


def quiet_experiment(run: ModuleType, home: Path, identity: str | None = None) -> Any:
    """A nemo_run.Experiment that says nothing on the screen, with its files in `home`."""
    return run.Experiment(
        TITLE, id=identity, base_dir=str(home), clean_mode=True, enable_goodbye_message=False, skip_status_at_exit=True, log_level="ERROR"
    )  # fmt: skip
