#!/usr/bin/env python3
"""Kill a run again and again at random moments and check each time that nothing is lost.

    python benchmarks/soak.py --kills 40 --ranks 2 --folder /tmp/soak

An uninterrupted run comes first. Then a run of the same flags is started and killed with SIGKILL, by turns one rank,
all ranks, the launcher, or all of them at once, half of the times at a random moment after its start and half inside
a save, a load or the removal of an old checkpoint. The same command is started until it has finished, and what it
leaves must equal the uninterrupted run: losses, learning rates, gradient norms, consumed samples, validation losses,
and the order of the samples. Exit code 1 when one run differs, can't go on, or leaves a process behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_workflow.run_dir import metrics
from tests.e2e.run.conftest import make_corpus
from tests.e2e.run.harness import FAULTS, REPOSITORY, Experiment, none_left, samples

STEPS, SAVE_EVERY = 24, 4
VICTIMS = ("rank", "ranks", "launcher", "group")
POINTS = ("save.before", "save.begun", "save.shards", "save.manifest", "save.mark", "save.prune", "load", "step")


def main() -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are written; removed first")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    corpus = make_corpus(arguments.folder / "corpus")
    chance = random.Random(arguments.seed)
    reference = experiment(corpus, arguments, "reference")
    began = time.monotonic()
    start = reference.start(record=arguments.folder / "reference.samples", slow=0.1)
    assert start.code == 0, start.output
    usual = time.monotonic() - began
    print(f"the uninterrupted run took {usual:.0f} s", flush=True)
    counts: dict[str, int] = {}
    lost = runs = kills = 0
    while kills < arguments.kills:
        runs += 1
        run = experiment(corpus, arguments, f"run{runs}")
        record = arguments.folder / f"run{runs}.samples"
        problem = ""
        while not problem:
            if kills < arguments.kills:
                kind, code = kill_once(run, record, chance, usual)
            else:
                kind, code = "none", run.start(record=record, slow=0.1).code
            if code == 0:
                break
            if kind == "none" or code in (2,):
                problem = f"exit code {code} from a start that was not killed"
                break
            if kind != "not killed":
                kills += 1
                counts[kind] = counts.get(kind, 0) + 1
                print(f"kill {kills}: {kind}; whole checkpoints {run.whole()}", flush=True)
            if not none_left(run.folder, 60):
                problem = "processes were left behind"
        problem = problem or differences(run, record, reference, arguments.folder / "reference.samples")
        lost += bool(problem)
        print(f"run {runs}: {problem or 'equals the uninterrupted run'} ({kills} kills so far)", flush=True)
        if not problem:
            shutil.rmtree(run.folder)
    minutes = (time.monotonic() - began) / 60
    print(
        json.dumps(
            {"kills": kills, "runs": runs, "lost": lost, "minutes": round(minutes, 1), "by kind": counts}, indent=2
        )
    )
    return 1 if lost else 0


def experiment(corpus: Path, arguments: argparse.Namespace, name: str) -> Experiment:
    return Experiment(corpus, arguments.folder / "out", name=name, ranks=arguments.ranks, steps=STEPS)


def kill_once(run: Experiment, record: Path, chance: random.Random, usual: float) -> tuple[str, int]:
    """One start and one kill; returns what was killed where, and the launcher's exit code."""
    victim = chance.choice(VICTIMS)
    done = max(run.whole(), default=0)
    to_come = range(done // SAVE_EVERY * SAVE_EVERY + SAVE_EVERY, STEPS + 1, SAVE_EVERY)
    if to_come and chance.random() < 0.5:
        points = [point for point in POINTS if done or point not in ("load", "save.prune")]
        point, step = chance.choice(points), chance.choice(to_come)
        action = {"rank": "kill", "ranks": "kill"}.get(victim, victim)
        number = chance.randrange(run.ranks) if point in ("step", "save.shards", "load") else 0
        code = run.start(record=record, slow=0.1, fault=f"{point} {step} {number} {action}").code
        return (f"{action} at {point}" if code else "not killed"), code
    environment = os.environ | {"PYTHONPATH": str(FAULTS), "RECORD": str(record), "SLOW": "0.1"}
    environment.pop("FAULT", None)
    process = subprocess.Popen(
        run.command(), cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait = chance.uniform(1, usual)
    try:
        return "not killed", process.wait(timeout=wait)
    except subprocess.TimeoutExpired:
        kill(process.pid, victim, chance)
    return f"{victim} at a random moment", process.wait(timeout=120)


def kill(launcher: int, victim: str, chance: random.Random) -> None:
    """SIGKILL to the victims among the launcher, torchrun and the ranks; to all when there are no ranks yet."""
    top = psutil.Process(launcher)
    below = top.children(recursive=True)
    ranks = [process for process in below if "fdl_runner" in " ".join(cmdline(process)) and "RANK" in environ(process)]
    chosen = {"rank": ranks and [chance.choice(ranks)], "ranks": ranks, "launcher": [top], "group": [top, *below]}[
        victim
    ]
    for process in chosen or [top, *below]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def differences(run: Experiment, record: Path, reference: Experiment, reference_record: Path) -> str:
    """What is not as in the uninterrupted run, or nothing."""
    ours, theirs = run.history(), reference.history()
    if ours != theirs:
        return f"history differs: {ours} instead of {theirs}"
    if samples(record) != samples(reference_record):
        return "other samples were read"
    stray = [path.name for path in run.checkpoints.iterdir() if not path.name.startswith("step_")]
    if stray:
        return f"left behind: {stray}"
    ends = [event for event in metrics.read(run.folder / metrics.FILE) if event["event"] == "end"]
    return "" if ends and ends[-1]["reason"] == "finished" else "it has no end"


if __name__ == "__main__":
    sys.exit(main())
