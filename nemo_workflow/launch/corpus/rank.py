"""What srun starts, once a node, from the copy of our code that was submitted: `rank.py ATTEMPT`."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the copy of the package lies beside this file

from nemo_workflow.run_dir.slurm_jobs import done_mark, restart_folder, stopped_mark
from nemo_workflow.utils.errors import STOPPED, Failure, Refusal, missing_package
from nemo_workflow.utils.folder_kinds import PLAN


class _Asked(BaseException):
    """To stop: before the time limit, or by `runs cancel`."""


def main(attempt: Path) -> int:
    """Do this node's share of attempt/plan.json; returns the exit code."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    rank, count = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if not asked:
            asked.append(number)
            raise _Asked

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, ask)
    folder = restart_folder(attempt, restart)
    folder.mkdir(exist_ok=True)
    try:
        from nemo_workflow.preprocess.claims import LOST_SECONDS, Claims
        from nemo_workflow.preprocess.node import Job, Node

        values = json.loads((attempt / PLAN).read_text(encoding="utf-8"))
        claims = Claims(folder / "claims", f"rank{rank}", values.get("lost_seconds", LOST_SECONDS))
        node = Node(Job.from_json(values), claims, rank, count)
        print(f"{node.name} is {socket.gethostname()}, process {os.getpid()}", flush=True)
        node.work(done_mark(attempt, restart))
    except ModuleNotFoundError as error:  # a container that lacks one of ours
        return _failed(folder, rank, missing_package(error) or str(error))
    except (Refusal, Failure, OSError) as error:
        return _stopped(attempt, restart) if asked else _failed(folder, rank, str(error))
    except _Asked:
        return _stopped(attempt, restart)
    return 0


def _stopped(attempt: Path, restart: int) -> int:
    """Tell the job script that this was no failure."""
    stopped_mark(attempt, restart).touch()
    return STOPPED


def _failed(folder: Path, rank: int, text: str) -> int:
    (folder / f"rank{rank}.error").write_text(f"{time.time()}\n{text}\n", encoding="utf-8")
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # without freeing the tokenizer piece by piece
