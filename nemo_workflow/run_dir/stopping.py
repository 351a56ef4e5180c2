"""A run that is asked to stop: which signal asked, its time to finish the step, and what is saved of it."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.run_dir.slurm_jobs import cancelled_mark
from nemo_workflow.utils.processes import signal_name

SIGNAL = "signal"  # in an attempt's folder: the number of the one that the launcher got
ORPHANED = "launcher_died"  # in an attempt's folder: its ranks stopped because their launcher was gone
GRACE_SECONDS = {"cpu": 8.0, "gpu": 60.0}
STEPS = 2.0  # of the run's last step's time that the grace time has at least: the step may just have begun


def tell_signal(attempt: Path, number: int) -> None:
    """Write down the signal that the launcher got: what it sends its ranks is SIGTERM."""
    with contextlib.suppress(OSError):  # a full disk: the ranks say SIGTERM then
        (attempt / SIGNAL).write_text(str(number))


def launchers_signal(attempt: Path) -> int | None:
    """The signal that the launcher got, None where it wrote none down."""
    try:
        return int((attempt / SIGNAL).read_text())
    except (OSError, ValueError):
        return None


def asked_at(attempt: Path) -> float | None:
    """When that was, in seconds since the epoch; None where it got none."""
    try:
        return (attempt / SIGNAL).stat().st_mtime
    except OSError:
        return None


def asked_by(attempt: Path, number: int) -> str:
    """'Ctrl-C', 'SIGTERM', or '`runs cancel`', which sends one of these."""
    cancelled = number == signal.SIGTERM and cancelled_mark(attempt).is_file()
    return "`runs cancel`" if cancelled else signal_name(number)


def tell_orphaned(attempt: Path) -> None:
    """Write down that ranks stop because their launcher has died, and nobody asked them to."""
    with contextlib.suppress(OSError):  # a full disk
        (attempt / ORPHANED).touch()


def orphaned(attempt: Path) -> bool:
    """Whether the ranks of a start stopped because their launcher had died."""
    return (attempt / ORPHANED).exists()


def grace_seconds(plan: Plan) -> float:
    """Seconds that ranks asked to stop have to finish their step; a save under way is waited for in any case."""
    given = plan.settings.grace_seconds
    if given is not None:
        return float(given)
    step = metrics.last(plan.folder / metrics.FILE).get("step", {})
    return max(GRACE_SECONDS[plan.accelerator], STEPS * float(step.get("seconds", 0.0)))


def what_is_saved(folder: Path, last_step: int) -> str:
    """What the next start of a run continues from, and which of the steps up to `last_step` are lost."""
    newest, _ = newest_whole(folder / "checkpoints")
    if newest is None:
        lost = f", so {_steps(1, last_step)} lost" if last_step else ""
        return f"no checkpoint yet{lost}; the same command starts again from the beginning"
    if newest.step >= last_step:
        return f"step {newest.step} is saved; the same command continues from there"
    return (
        f"step {newest.step} is saved, {_steps(newest.step + 1, last_step)} not; the same command continues from there"
    )


def _steps(first: int, last: int) -> str:
    return f"step {first} is" if first == last else f"steps {first} to {last} are"
