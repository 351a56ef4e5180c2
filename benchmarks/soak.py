#!/usr/bin/env python3
"""Kill runs again and again at random moments and check each time that nothing is lost.

    python benchmarks/soak.py --kills 100 --over local,restarts,slurm --ranks 2 --folder /tmp/soak

Uninterrupted runs come first. Then a run of the same flags is started and killed with SIGKILL, by turns

    local      one rank, all ranks, the launcher, or all of them at once; the same command is started again
    restarts   one rank, all ranks or torchrun; --max-restarts brings the run back
    slurm      one rank, all ranks, the whole job, or a node with all that runs on it; --requeue brings the job back, or
               the same command does (real daemons on this host, as in tests/e2e/slurm; needs root)

half of the times at a random moment after its start and half inside a save, a load or the removal of an old checkpoint,
until it has finished. What it leaves must equal the uninterrupted run: losses, learning rates, gradient norms, consumed
samples, validation losses, and the order of the samples. Exit code 1 when one run differs, can't go on, or leaves a
process behind.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import soak_ways
from nemo_workflow.run_dir import metrics
from tests.e2e.run.conftest import make_corpus
from tests.e2e.run.harness import Experiment, none_left, samples


def main() -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--over", default="local,restarts,slurm", help="what is killed, joined by commas")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are written; removed first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further kill is made")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    corpus = make_corpus(arguments.folder / "corpus")
    ways = [soak_ways.WAYS[name](corpus, arguments.folder, arguments.ranks) for name in arguments.over.split(",")]
    try:
        return Soak(ways, arguments).run()
    finally:
        for way in ways:
            way.close()


class Soak:
    """Runs by turns of each way, until enough kills were made."""

    def __init__(self, ways: list[soak_ways.Way], arguments: argparse.Namespace):
        self.ways = ways
        self.chance = random.Random(arguments.seed)
        self.most = arguments.kills
        self.began = time.monotonic()
        self.end = self.began + 60 * arguments.minutes
        self.counts: dict[str, int] = {}
        self.kills = 0

    def run(self) -> int:
        """The exit code; prints each kill, each run's end, and the sums."""
        for way in self.ways:
            way.measure()
            print(f"{way.name}: the uninterrupted run took {way.usual:.0f} s", flush=True)
        lost = runs = 0
        while self._more():
            way = self.ways[runs % len(self.ways)]
            runs += 1
            run = way.experiment(f"run{runs}")
            problem = self._until_finished(way, run) or differences(way, run)
            lost += bool(problem)
            print(
                f"run {runs}, {way.name}: {problem or 'equals the uninterrupted run'} ({self.kills} kills)", flush=True
            )
            if not problem:
                shutil.rmtree(run.folder)
        minutes = round((time.monotonic() - self.began) / 60, 1)
        sums = {"kills": self.kills, "runs": runs, "lost": lost, "minutes": minutes, "by kind": self.counts}
        print(json.dumps(sums, indent=2))
        return 1 if lost else 0

    def _more(self) -> bool:
        return self.kills < self.most and time.monotonic() < self.end

    def _until_finished(self, way: soak_ways.Way, run: Experiment) -> str:
        """Start and kill until the run has finished; returns what went wrong, or nothing."""
        while True:
            if self._more():
                kind, code = way.kill_once(run, self.chance)
            else:
                kind, code = "", way.start(run)
            if kind:
                self.kills += 1
                kind = f"{way.name}: {kind}"
                self.counts[kind] = self.counts.get(kind, 0) + 1
                print(f"kill {self.kills}: {kind}; whole checkpoints {run.whole()}", flush=True)
            if not none_left(run.folder, 60):
                return "processes were left behind"
            if code == 0:
                return ""
            if code == 2 or not kind:
                return f"exit code {code}: {way.said[-2000:]}"


def differences(way: soak_ways.Way, run: Experiment) -> str:
    """What is not as in the uninterrupted run, or nothing."""
    ours, theirs = run.history(), way.reference.history()
    if ours != theirs:
        return f"history differs: {ours} instead of {theirs}"
    if samples(way.record(run)) != samples(way.record(way.reference)):
        return "other samples were read"
    stray = [path.name for path in run.checkpoints.iterdir() if not path.name.startswith("step_")]
    if stray:
        return f"left behind: {stray}"
    ends = [event for event in metrics.read(run.folder / metrics.FILE) if event["event"] == "end"]
    return "" if ends and ends[-1]["reason"] == "finished" else "it has no end"


if __name__ == "__main__":
    sys.exit(main())
