#!/usr/bin/env python3
"""One run as a user types it: its start, a Ctrl-C in a step, one in a save, and its end. Seconds from the clock outside.

    python benchmarks/gpu/start_stop.py OUT --data DATA [--ranks 4] [--model llama32_1b]

Each start goes on where the one before stopped. A line of JSON for each is printed and appended to OUT/start_stop.jsonl: the stages
of the start, how long it took from the signal to the prompt, the exit code, and what each save cost. Exit code 1 where a step is
missing, comes twice, or an exit code is not the one expected.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import launch  # noqa: E402

from nemo_workflow.run_dir import checkpoints  # noqa: E402

STEPS, EVERY = 16, 5  # of the run; between two saves
IN_STEP = 3  # after whose end the first signal comes


def main() -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="emptied first; best in memory: checkpoints are 14 bytes per parameter")
    parser.add_argument("--data", type=Path, required=True, help="with dataset/ and tokenizer/")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--model", default="llama32_1b")
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--until", default="step,save,end", help="what each start is stopped in")
    parser.add_argument("--flags", default="", help="more of pretrain_llm.py's, in one word")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    right = [one_start(options, until, 0 if until == "end" else 130) for until in options.until.split(",")]
    steps = [event["step"] for event in launch.steps_of(launch.history_of(options.out))]
    print(f"steps: {steps}")
    return 0 if all(right) and steps == list(range(1, STEPS + 1)) else 1


def one_start(options: argparse.Namespace, until: str, expected: int) -> bool:
    """Start the command, send it a Ctrl-C in a step or in a save, or let it end; whether it ended as expected."""
    words = [
        "-M",
        options.model,
        "--hf-model-id",
        options.data / "tokenizer",
        "--dataset-dir",
        options.data / "dataset",
    ]
    words += ["--seed", "1234", "-E", "run", "-gbs", 16 * options.ranks, "--max-steps", STEPS, "--save-every", EVERY]
    words += [
        "--val-check-interval",
        STEPS,
        "-G",
        options.ranks,
        "--accelerator",
        options.accelerator,
        "--output-dir",
        options.out,
    ]
    done = len(launch.history_of(options.out))
    began = time.time()
    command = [sys.executable, "pretrain_llm.py", *map(str, words), *options.flags.split()]
    with (options.out / "screen.txt").open("ab") as screen:
        process = subprocess.Popen(command, cwd=HERE.parents[1], stdout=screen, stderr=screen)
    asked = None
    while process.poll() is None:
        if asked is None and until != "end" and due(options.out, done, until):
            time.sleep(0.3)
            asked = time.time()
            process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    ended = time.time()
    history = launch.history_of(options.out)[done:]
    told: dict[str, Any] = {"ranks": options.ranks, "until": until, "exit_code": process.returncode}
    with contextlib.suppress(StopIteration, IndexError):  # it has not got so far
        told |= start(options.out, history, began)
        last = launch.steps_of(history)[-1]["time"]
        told["last step to the prompt"] = round(ended - last, 2)
    told["signal to the prompt"] = asked and round(ended - asked, 2)
    told["whole"] = round(ended - began, 2)
    told["saves"] = [
        {name: event.get(name) for name in ("step", "bytes", "seconds", "held_up")}
        for event in history
        if event["event"] == "checkpoint"
    ]
    print(json.dumps(told), flush=True)
    with (options.out / "start_stop.jsonl").open("a") as stream:
        stream.write(json.dumps(told) + "\n")
    return process.returncode == expected


def due(out: Path, done: int, until: str) -> bool:
    """Whether the moment of the signal has come: so many steps of this start are done, or a save has begun."""
    if until == "save":
        return checkpoints.save_under_way(out / "run" / "checkpoints")
    return len(launch.steps_of(launch.history_of(out)[done:])) >= IN_STEP


def start(out: Path, history: list[dict[str, Any]], began: float) -> dict[str, Any]:
    """Seconds of each stage of this start; raises StopIteration where it has made no step."""
    begun = next(event for event in history if event["event"] == "start")
    steps = launch.steps_of(history)
    first = launch.birth(max((out / "run" / "attempts").glob("*/rank0.log")))
    return {
        "command to the rank's first line": round(first - began, 2),
        "imports": round(begun["time"] - begun["setup_seconds"] - first, 2),
        "model, data, optimizer": begun["setup_seconds"],
        "first step": steps[0]["seconds"],
        "command to the end of the first step": round(begun["time"] + steps[0]["seconds"] - began, 2),
        "steps": [event["seconds"] for event in steps],
        "losses": [event["loss"] for event in steps],
    }


if __name__ == "__main__":
    sys.exit(main())
