"""What a start leaves in its folder before its ranks train: when and where it was launched, and why it came to nothing."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.utils.files import write_json

FILE = "launched.json"  # in an attempt's folder
FAILED = "failed"  # in an attempt's folder: the first line of what the launcher said of a failure
NAME = "%Y%m%d-%H%M%S"  # of an attempt's folder: the local time of its launch


@dataclass(frozen=True)
class Launch:
    """When a start was launched, in seconds since the epoch, and on which machine: empty where that isn't known."""

    time: float
    host: str = ""


def tell_launched(attempt: Path) -> None:
    """Write down when and where the start of this folder was launched: now and here."""
    write_json(attempt / FILE, {"time": round(time.time(), 3), "host": platform.node()})


def launch_of(attempt: Path) -> Launch | None:
    """What was written, else what the folder's name says; None for a folder of another name."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((attempt / FILE).read_text(encoding="utf-8"))
        return Launch(float(found["time"]), str(found["host"]))
    named = re.match(r"\d{8}-\d{6}", attempt.name)
    with contextlib.suppress(ValueError, OverflowError):
        return Launch(time.mktime(time.strptime(named[0], NAME))) if named else None
    return None


def folders_of(run: Path) -> list[Path]:
    """The folders of a run's starts, oldest first, by the time of the launch: their names have it in local time, which is another in a
    container, and after the end of summer time. Those of a Slurm job's restarts come behind its own.
    """

    def launched(path: Path) -> tuple[float, str]:
        launch = launch_of(path.with_name(path.name.partition("-restart")[0]))
        return (launch.time if launch else 0.0, path.name)

    return sorted((path for path in run.glob("attempts/*") if path.is_dir()), key=launched)


def tell_failed(attempt: Path, text: str) -> None:
    """Write down why a start failed, in a line, for where no rank has: of a rank's own words the first line, of a traceback the last."""
    first, *more = text.strip().splitlines() or [""]
    said = first.partition("; its log")[0].partition("; logs: ")[0].rstrip(":")
    own = [line.strip() for line in more if line.strip() and not line.startswith("log of rank")]
    if own and re.fullmatch(r"rank \d+", said):
        said = f"{said}: {own[-1 if own[0].startswith('Traceback') else 0]}"
    with contextlib.suppress(OSError):  # a full disk
        (attempt / FAILED).write_text(said, encoding="utf-8")


def failure_of(attempt: Path) -> str:
    """The same, empty where nothing was written."""
    with contextlib.suppress(OSError):
        return (attempt / FAILED).read_text(encoding="utf-8", errors="replace")
    return ""
