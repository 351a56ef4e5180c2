"""What srun starts, once a rank, from the copy of our code that was submitted: `rank.py ATTEMPT`.

It tells the rank who it is in torchrun's words (so Lightning doesn't install its own requeue on SIGUSR1), gives each
restart of a job a folder of its own, and trains as <attempt>/plan.json says.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the copy of the package lies beside this file

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir.checkpoints import save_under_way
from nemo_workflow.run_dir.slurm_jobs import hung_mark, restart_folder, stopped_mark
from nemo_workflow.utils.errors import Refusal, missing_package
from nemo_workflow.utils.folder_kinds import PLAN

try:
    from nemo_workflow.training import liveness, node_watch
    from nemo_workflow.training.resume import finished_already
except ModuleNotFoundError as error:  # a container that lacks one of ours
    sys.exit(missing_package(error) or error.msg)

LOCK_SECONDS = (
    120.0  # until the launcher, or a rank of the job before, has let go of the run; a save under way is waited for
)


def main(attempt: Path) -> None:
    """Train; ends the process with the rank's exit code."""
    tell_rank(os.environ)
    restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: _leave_before_training(attempt, restart))
    text = (attempt / PLAN).read_text(encoding="utf-8")
    plan = Plan.from_json(text)
    liveness.dump_stacks_on_signal(sys.stderr)
    if os.environ["LOCAL_RANK"] == "0" and plan.settings.timeout_minutes:
        mark = hung_mark(attempt, restart)
        node_watch.start(plan.folder, restart_folder(attempt, restart), mark, 60 * plan.settings.timeout_minutes)
    finished, goes_on = attempt / f"finished-{restart}", attempt / f"training-{restart}"
    if os.environ["RANK"] != "0":
        threading.Thread(target=_end_if_finished, args=(finished, goes_on), daemon=True).start()
    elif finished_already(plan):
        finished.touch()
        print(f"already trained to step {plan.schedule.max_steps}", flush=True)
        return
    else:
        goes_on.touch()
    if plan.accelerator == "cpu":
        cores = len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
    lock = take_lock(plan.folder) if os.environ["RANK"] == "0" else None
    from nemo_workflow.training.worker import train

    train(text, str(restart_folder(attempt, restart)))
    del lock


def tell_rank(variables: Any) -> None:
    """Set torchrun's variables from srun's."""
    variables["RANK"] = variables["SLURM_PROCID"]
    variables["LOCAL_RANK"] = variables["SLURM_LOCALID"]
    variables["GROUP_RANK"] = variables["SLURM_NODEID"]
    variables["WORLD_SIZE"] = variables["SLURM_NTASKS"]
    variables["LOCAL_WORLD_SIZE"] = str(int(variables["SLURM_NTASKS"]) // int(variables["SLURM_NNODES"]))
    variables["TORCHELASTIC_RUN_ID"] = variables["SLURM_JOB_ID"]


def take_lock(run: Path) -> TextIO | None:
    """Hold the run's lock while the returned stream lives; None on a file system that has no locks."""
    end = time.monotonic() + LOCK_SECONDS
    saves = time.monotonic() + liveness.SAVE_SECONDS
    while True:
        try:
            return liveness.lock_run(run)
        except Refusal as refusal:
            saving = save_under_way(run / "checkpoints") and time.monotonic() < saves
            if time.monotonic() > end and not saving:
                sys.exit(str(refusal))
            time.sleep(1)
        except OSError:
            return None


def _end_if_finished(finished: Path, goes_on: Path) -> None:
    """Follow rank 0, which alone looks for the last checkpoint: a network disk may show another rank an older state.

    Meanwhile the rank gets ready, for the same disk may show the answer late.
    """
    while not goes_on.exists():
        if finished.exists():
            os._exit(0)
        time.sleep(1)


def _leave_before_training(attempt: Path, restart: int) -> None:
    """Asked to stop while still importing: nothing is lost, and the job script learns that it was no failure."""
    stopped_mark(attempt, restart).touch()
    os._exit(75)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
