#!/usr/bin/env python3
"""Kill runs again and again at random moments and check each time that nothing is lost.

    python benchmarks/soak.py --kills 100 --over local,restarts,slurm --ranks 2 --folder /tmp/soak

An uninterrupted run comes first. Then a run of the same flags is started and killed with SIGKILL, by turns

    local      one rank, all ranks, the launcher, or all of them at once; the same command is started again
    restarts   one rank, all ranks or torchrun; --max-restarts brings the run back
    slurm      one rank, all ranks, the whole job, or a node with all that runs on it; --requeue brings the job back, or
               the same command does (real daemons on this host, as in tests/e2e/slurm; needs root)

half of the times at a random moment after its start and half inside a save, a load or the removal of an old checkpoint,
until it has finished. What it leaves must equal the uninterrupted run: losses, learning rates, gradient norms, consumed
samples, validation losses, and the order of the samples. Exit code 1 when one run differs, can't go on, or leaves a
process behind. A soak that was ended goes on where it was with --go-on: kills add up over days, on the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import soak_ways
from nemo_workflow.run_dir import metrics
from nemo_workflow.utils.files import write_json
from tests.e2e.run.conftest import make_corpus
from tests.e2e.run.harness import Experiment, none_left, samples


def main() -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--over", default="local,restarts,slurm", help="what is killed, joined by commas")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, required=True, help="where runs are written; removed first, but with --go-on"
    )
    parser.add_argument("--go-on", action="store_true", help="with the runs and the counts that the folder holds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further kill is made")
    arguments = parser.parse_args()
    if not arguments.go_on:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    corpus = arguments.folder / "corpus"
    if not (corpus / "dataset" / "preprocessed" / "text_text_document.idx").exists():
        make_corpus(corpus)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started is ended too
    ways = [soak_ways.WAYS[name](corpus, arguments.folder, arguments.ranks) for name in arguments.over.split(",")]
    try:
        return Soak(ways, arguments).run()
    finally:
        for way in ways:
            way.close()


@dataclasses.dataclass
class State:
    """What was done so far; written after each kill, so that a soak that is ended itself can go on."""

    kills: int = 0
    runs: int = 0  # that were begun; the last one may not have finished
    compared: int = 0  # kills in runs that have finished and were compared
    finished: int = 0
    lost: int = 0
    minutes: float = 0.0
    starting: float = (
        0.0  # seconds from the command to the first step of the uninterrupted run; 0 where it has not ended
    )
    by_kind: dict[str, int] = dataclasses.field(default_factory=dict)


class Soak:
    """Runs by turns of each way, until enough kills were made."""

    def __init__(self, ways: list[soak_ways.Way], arguments: argparse.Namespace):
        self.ways = ways
        self.file = arguments.folder / "state.json"
        self.state = State(**json.loads(self.file.read_text())) if self.file.exists() else State()
        self.chance = random.Random(f"{arguments.seed} {self.state.kills}")
        self.most = arguments.kills
        self.looked = time.monotonic()
        self.end = self.looked + 60 * arguments.minutes

    def run(self) -> int:
        """The exit code; prints each kill, each run's end, and the sums."""
        self._uninterrupted()
        # a run that a soak before this one has left comes first
        number = max(1, self.state.runs) if self.state.runs > self.state.finished else self.state.runs + 1
        while self._more():
            self._one_run(number)
            number += 1
        print(json.dumps(dataclasses.asdict(self.state), indent=2))
        return 1 if self.state.lost else 0

    def _uninterrupted(self) -> None:
        """Make the run that all others must equal, however they are started. Raises RuntimeError where it fails."""
        way = self.ways[0]
        self.reference, self.record = way.experiment("reference"), way.record(way.experiment("reference"))
        if self.state.starting:
            return
        shutil.rmtree(self.reference.folder, ignore_errors=True)
        self.record.unlink(missing_ok=True)
        began = time.time()
        if way.start(self.reference):
            raise RuntimeError(way.said)
        first = next(event for event in self.reference.events() if event["event"] == "step")
        self.state.starting = round(first["time"] - began, 1)
        self._write()
        print(f"the uninterrupted run took {time.time() - began:.0f} s", flush=True)

    def _one_run(self, number: int) -> None:
        """Kill one run until it has finished, and compare it."""
        way = self.ways[(number - 1) % len(self.ways)]
        run = way.experiment(f"run{number}")
        self.state.runs = number
        problem = self._until_finished(way, run) or self._differences(way, run)
        self.state.lost += bool(problem)
        self.state.finished = number
        self.state.compared = self.state.kills
        self._write()
        said = problem or "equals the uninterrupted run"
        print(f"run {number}, {way.name}: {said} ({self.state.kills} kills)", flush=True)
        if not problem:
            shutil.rmtree(run.folder)

    def _more(self) -> bool:
        return self.state.kills < self.most and time.monotonic() < self.end

    def _write(self) -> None:
        now = time.monotonic()
        self.state.minutes, self.looked = round(self.state.minutes + (now - self.looked) / 60, 2), now
        write_json(self.file, dataclasses.asdict(self.state))

    def _until_finished(self, way: soak_ways.Way, run: Experiment) -> str:
        """Start and kill until the run has finished; returns what went wrong, or nothing."""
        while True:
            kinds: list[str] = []
            if self._more():
                most = self.most - self.state.kills
                kinds, code = way.kill(run, self.chance, self.state.starting, most)
            else:
                code = way.start(run)
            for kind in kinds:
                self._count(f"{way.name}: {kind}", run)
            none_left(run.folder)
            if code == 0:
                return ""
            if code == 2 or not kinds:
                return f"exit code {code}: {way.said[-2000:]}"

    def _count(self, kind: str, run: Experiment) -> None:
        self.state.kills += 1
        self.state.by_kind[kind] = self.state.by_kind.get(kind, 0) + 1
        self._write()
        print(f"kill {self.state.kills}: {kind}; whole checkpoints {run.whole()}", flush=True)

    def _differences(self, way: soak_ways.Way, run: Experiment) -> str:
        """What is not as in the uninterrupted run, or nothing."""
        ours, theirs = run.history(), self.reference.history()
        if ours != theirs:
            return f"history differs: {ours} instead of {theirs}"
        if samples(way.record(run)) != samples(self.record):
            return "other samples were read"
        stray = [path.name for path in run.checkpoints.iterdir() if not path.name.startswith("step_")]
        if stray:
            return f"left behind: {stray}"
        ends = [event for event in metrics.read(run.folder / metrics.FILE) if event["event"] == "end"]
        return "" if ends and ends[-1]["reason"] == "finished" else "it has no end"


if __name__ == "__main__":
    sys.exit(main())
