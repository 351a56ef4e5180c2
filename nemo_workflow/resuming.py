"""Which checkpoint a start continues from: chosen by rank 0, the same for all ranks."""

from __future__ import annotations

import json
import time
from pathlib import Path

from nemo_workflow.checkpoints import Checkpoint, newest_whole
from nemo_workflow.files import write_json
from nemo_workflow.plan import Plan

WAIT_SECONDS = 600.0


def choose_checkpoint(plan: Plan, attempt: Path, rank: int) -> Checkpoint | None:
    """The newest whole checkpoint of the run, or None to start anew; ranks above 0 wait for rank 0's choice.

    Raises TimeoutError when rank 0 has not chosen within ten minutes.
    """
    decision = attempt / "resume.json"
    if rank == 0:
        chosen, complaints = newest_whole(plan.folder / "checkpoints")
        write_json(
            decision,
            {"path": str(chosen.path) if chosen else None, "step": chosen.step if chosen else 0, "notes": complaints},
        )
        return chosen
    end = time.monotonic() + WAIT_SECONDS
    while not decision.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"rank 0 wrote no {decision} within {WAIT_SECONDS:.0f} s; see rank0.log beside it")
        time.sleep(0.05)
    read = json.loads(decision.read_text(encoding="utf-8"))
    return Checkpoint(Path(read["path"]), read["step"]) if read["path"] else None
