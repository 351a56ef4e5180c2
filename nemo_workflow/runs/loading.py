"""What sample and evaluate say while they load a model: seconds of imports, and minutes for a large model or a slow disk."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow.utils import machine
from nemo_workflow.utils.console import Meter, human_time

WORTH_SAYING = 5.0  # seconds, after which it is said how long it took


@contextlib.contextmanager
def loading(folder: Path, purpose: str = "") -> Iterator[None]:
    """Say what is loaded, on what, and for which purpose; at the end how long that took, where it was long."""
    meter, began = Meter(sys.stderr), time.monotonic()
    what = f"loading {folder} on the {'GPU' if machine.has_gpu() else 'CPU'}{purpose} …"
    meter.show(what, always=True)
    try:
        yield
        if (seconds := time.monotonic() - began) > WORTH_SAYING:
            meter.note(f"{what} done in {human_time(seconds)}")
    finally:
        meter.close()
