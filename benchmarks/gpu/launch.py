"""pretrain_llm.py as a user starts it, timed from outside: where the time from the command to the first step goes.

A case of run_cases.py: `flags`. The rank's own events and the times of its log files are what is measured.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import turn

from nemo_workflow.run_dir import metrics as events

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 4  # after which the start is written down


def main() -> None:
    case, folder, data = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    flags = [turn.placed(word, data, folder.parent) for word in case["flags"]]
    if case.get("rehearse"):
        flags += ["--accelerator", "cpu"]
    turn.wait(folder)
    began = time.time()
    command = [sys.executable, "pretrain_llm.py", *flags, "-G", str(case.get("ranks", 1)), "--output-dir", str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    while process.poll() is None:  # the start is known before the save at the run's end, which can take minutes
        time.sleep(0.2)
        if not (folder / "result.json").exists() and len(steps_of(history_of(folder))) >= STEPS:
            (folder / "result.json").write_text(json.dumps(measured(folder, began)))
    ended = time.time()
    if process.returncode:
        (folder / "result.json").unlink(missing_ok=True)
        sys.exit(process.returncode)
    (folder / "result.json").write_text(json.dumps(measured(folder, began, ended)))
    shutil.rmtree(next(folder.glob("*/checkpoints")))  # 14 bytes per parameter


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [event for metrics in folder.glob("*/metrics.jsonl") for event in events.read(metrics)]


def steps_of(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in history if event["event"] == "step"]


def measured(folder: Path, began: float, ended: float | None = None) -> dict[str, Any]:
    """Seconds from the command to each stage of the start, and the run's own numbers."""
    metrics = next(folder.glob("*/metrics.jsonl"))
    history = history_of(folder)
    start, steps = next(event for event in history if event["event"] == "start"), steps_of(history)
    log = next(metrics.parent.glob("attempts/*/rank0.log"))
    timed = steps[4:] or steps
    return {
        "start": {
            "command to the rank's process and its first line": round(birth(log) - began, 2),
            "imports": round(start["time"] - start["setup_seconds"] - birth(log), 2),
            "model, data, optimizer": start["setup_seconds"],
            "first step": steps[0]["seconds"],
            "command to the end of the first step": round(start["time"] + steps[0]["seconds"] - began, 2),
            "last step to the command's end": round(ended - steps[-1]["time"], 2) if ended else None,
        },
        "tok_s": statistics.median(event["tokens_per_second"] for event in timed),
        "mfu": statistics.median(event.get("mfu", 0) for event in timed),
        "alloc": steps[-1]["memory_bytes"] / 2**30,
        "loss": steps[-1]["loss"],
        "step_seconds": [event["seconds"] for event in steps],
    }


def birth(path: Path) -> float:
    """When a file was made, where the file system remembers; else when its folder last changed."""
    found = subprocess.run(
        ["stat", "-c", "%.3W", str(path)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return float(found) if found not in ("", "-", "0.000") else path.parent.stat().st_mtime


if __name__ == "__main__":
    main()
