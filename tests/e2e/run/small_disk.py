"""python -m tests.e2e.run.small_disk CORPUS FOLDER FACTS: runs on a small tmpfs at FOLDER; needs a mount namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nemo_workflow.run_dir import metrics
from tests.e2e.run.harness import Experiment

SIZE = 190  # MB: two checkpoints of 70 MB and the rest of a run
FILLER = "filler"


def main() -> None:
    corpus, folder, facts = map(Path, sys.argv[1:])
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", folder], check=True)
    run = Experiment(corpus, folder, flags=("--deterministic",))
    stopped = run.start(fault="save.begun 8 0 fill")
    found = {"stopped": [stopped.code, stopped.output], "whole": run.whole()}
    (folder / FILLER).unlink()
    found["left"] = sorted(path.name for path in run.checkpoints.iterdir())
    went_on = run.start("--on-save-error", "continue", fault="save.begun 8 0 fill")
    found |= {"went_on": [went_on.code, went_on.output], "whole_at_end": run.whole(), "history": run.history()}
    found["failed_saves"] = [e for e in metrics.read(run.folder / metrics.FILE) if e["event"] == "save_failed"]
    fill(folder, leave=40_000_000)
    refused = run.start(steps=16)
    found["refused"] = [refused.code, refused.output]
    fresh = Experiment(corpus, folder, name="fresh").start()
    found["fresh"] = [fresh.code, fresh.output]
    (facts / "facts.json").write_text(json.dumps(found), encoding="utf-8")


def fill(folder: Path, leave: int) -> None:
    """Write a file that leaves so many bytes free."""
    status = os.statvfs(folder)
    with (folder / FILLER).open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - leave)


if __name__ == "__main__":
    main()
