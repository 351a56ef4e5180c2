"""The ways in which benchmarks/soak.py starts a run and kills it: on this machine, with --max-restarts, and on Slurm."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from nemo_workflow.run_dir import metrics
from nemo_workflow.training import rank
from tests.e2e.run.harness import FAULTS, REPOSITORY, Experiment
from tests.e2e.slurm import daemons
from tests.waiting import LIMIT

STEPS, SAVE_EVERY = 60, 4
SLOW = "0.1"
TRAINED = 6.0  # seconds of training at most that a random moment is after the ranks' start
EARLY = 0.15  # share of kills at a random moment that come before training begins
POINTS = ("save.before", "save.begun", "save.shards", "save.manifest", "save.mark", "save.prune", "load", "step")
SLURM_FLAGS = ("--executor", "slurm", "--no-container", "-A", "a1", "-P", "batch", "--requeue", "3", "--wait")


class Way:
    """Starts and kills runs on this machine; the same command continues them."""

    name = "local"
    flags: tuple[str, ...] = ()
    victims: tuple[str, ...] = ("rank", "ranks", "launcher", "group")

    most = 1  # kills while one command runs

    def __init__(self, corpus: Path, folder: Path, ranks: int):
        self.corpus, self.folder, self.ranks = corpus, folder, ranks
        self.said = ""  # what the last start printed
        self._process: subprocess.Popen[str] | None = None

    def experiment(self, name: str) -> Experiment:
        output = self.folder / self.name
        return Experiment(self.corpus, output, name=name, ranks=self.ranks, steps=STEPS, flags=self.flags)

    def record(self, run: Experiment) -> Path:
        return self.folder / f"{self.name}-{run.name}.samples"

    def start(self, run: Experiment) -> int:
        """One start to its end; returns its exit code."""
        return self._end(self._begin(run, ""))

    def kill(self, run: Experiment, chance: random.Random, starting: float, most: int) -> tuple[list[str], int]:
        """One command and up to `most` kills; returns what was killed where, and the exit code.

        `starting` is how many seconds the ranks take to begin.
        """
        victim = chance.choice(self.victims)
        fault = self._fault(run, victim, chance) if chance.random() < 0.5 else ""
        begun = self._starts(run)
        process = self._begin(run, fault)
        killed: list[str] = []
        if fault:
            while process.poll() is None and not self._came.exists():
                time.sleep(0.2)
            if self._came.exists():
                who = victim if self._action(victim) == victim else "rank"
                killed.append(f"{who} at {fault.split()[0]}")
                begun += fault.split()[0] != "load"  # a start is told after the load
        while process.poll() is None and len(killed) < min(self.most, most):
            early = chance.random() < EARLY
            if self._wait(process, run, begun, chance.uniform(1, starting) if early else LIMIT):
                time.sleep(chance.uniform(0, TRAINED))
            if process.poll() is None:
                begun = self._starts(run)
                victim = chance.choice(self.victims)
                self._kill(process.pid, run, victim, chance)
                killed.append(f"{victim} at a random moment")
        return killed, self._end(process)

    def _wait(self, process: subprocess.Popen[str], run: Experiment, begun: int, seconds: float) -> bool:
        """Whether the ranks began training again within `seconds`."""
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            if self._starts(run) > begun:
                return True
            time.sleep(0.1)
        return False

    def close(self) -> None:
        """End what the way has started; the ranks end with their launcher."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _action(self, victim: str) -> str:
        return victim if victim in ("launcher", "group") else "kill"

    def _fault(self, run: Experiment, victim: str, chance: random.Random) -> str:
        """FAULT of tests/e2e/run/faults for a save, load or step that is to come; empty where there is none."""
        done = max(run.whole(), default=0)
        to_come = range(done // SAVE_EVERY * SAVE_EVERY + SAVE_EVERY, STEPS + 1, SAVE_EVERY)[:3]
        if not to_come:
            return ""
        point = chance.choice([point for point in POINTS if done or point not in ("load", "save.prune")])
        rank = chance.randrange(run.ranks) if point in ("step", "save.shards", "load") else 0
        return f"{point} {chance.choice(to_come)} {rank} {self._action(victim)}"

    def _starts(self, run: Experiment) -> int:
        return sum(event["event"] == "start" for event in metrics.read(run.folder / metrics.FILE))

    def _variables(self, run: Experiment, fault: str) -> dict[str, str]:
        found = {"RECORD": str(self.record(run)), "SLOW": SLOW, "REPORT": "1", "PYTHONPATH": str(FAULTS)}
        self._came = self.folder / f"came-{time.monotonic_ns()}"
        return found | ({"FAULT": fault, "ONCE": str(self._came)} if fault else {})

    def _begin(self, run: Experiment, fault: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if name != "FAULT"}
        return self._popen(run.command(), inherited | self._variables(run, fault))

    def _popen(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        log = (self.folder / f"{self.name}.log").open("w+", encoding="utf-8")
        with log:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
            )
        return self._process

    def _end(self, process: subprocess.Popen[str]) -> int:
        code = process.wait(timeout=LIMIT)
        self.said = (self.folder / f"{self.name}.log").read_text(encoding="utf-8", errors="replace")
        return code

    def _kill(self, launcher: int, run: Experiment, victim: str, chance: random.Random) -> None:
        """SIGKILL to the victims among the launcher, torchrun and the ranks; to all when there are no ranks yet."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(launcher)
            below = top.children(recursive=True)
            ranks = [one for one in below if rank.number(one) >= 0]
            torchrun = [one for one in top.children() if ranks]
            chosen = {"rank": _one(ranks, chance), "ranks": ranks, "torchrun": torchrun, "launcher": [top]}
            _kill_all(chosen.get(victim) or [top, *below])


class Restarts(Way):
    """--max-restarts brings the run back by itself."""

    name = "restarts"
    flags = ("--max-restarts", "3")
    victims = ("rank", "ranks", "torchrun")
    most = 4

    def _action(self, victim: str) -> str:
        return "once"  # not again after the restart


class Slurm(Way):
    """A job with --requeue on real daemons, followed with --wait."""

    name = "slurm"
    flags = SLURM_FLAGS
    victims = ("rank", "ranks", "job", "node")
    most = 4

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        if reason := daemons.missing():
            raise SystemExit(f"--over slurm: {reason}; leave it out")
        self.daemons = daemons.Daemons()
        self.daemons.start()

    def close(self) -> None:
        super().close()
        self.daemons.stop()

    def _action(self, victim: str) -> str:
        return "once"

    def _begin(self, run: Experiment, fault: str) -> subprocess.Popen[str]:
        """The ranks get what an environment variable would tell them by a setup file of the run's own."""
        values = self._variables(run, fault)
        place = values.pop("PYTHONPATH")
        lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
        setup = self.folder / f"{run.name}.setup.sh"
        setup.write_text(
            "\n".join([*lines, f'export RANK= PYTHONPATH={shlex.quote(place)}:"$attempt/code"', ""]), encoding="utf-8"
        )
        self._wait_for_no_job()
        return self._popen([*run.command(), "--setup-file", str(setup)], self.daemons.environment)

    def _wait_for_no_job(self) -> None:
        end = time.monotonic() + LIMIT
        while self._nodes_of_jobs() and time.monotonic() < end:
            time.sleep(0.5)

    def _nodes_of_jobs(self) -> dict[str, str]:
        """Job number -> its node; empty while it waits."""
        rows = [line.split("|") for line in self.daemons.run("squeue", "-h", "-o", "%A|%N").splitlines()]
        return {row[0]: row[1] for row in rows if len(row) == 2}

    def _kill(self, launcher: int, run: Experiment, victim: str, chance: random.Random) -> None:
        """SIGKILL to the victims; to the whole job when there are no ranks yet."""
        jobs = self._nodes_of_jobs()
        ranks = [one for one in psutil.process_iter() if any(w.endswith("/rank.py") for w in _cmdline(one))]
        ranks = [one for one in ranks if any(f"/{run.name}/" in word for word in _cmdline(one)) and self._ours(one)]
        node = next((node for node in jobs.values() if node), "")
        if victim == "node" and node:
            self._lose(node)
        elif victim in ("rank", "ranks") and ranks:
            _kill_all(_one(ranks, chance) if victim == "rank" else ranks)
        else:
            for job in jobs:
                self.daemons.run("scancel", "--full", "--signal=KILL", job)

    def _ours(self, process: psutil.Process) -> bool:
        return _environ(process).get("SLURM_CONF") == str(self.daemons.conf)

    def _lose(self, node: str) -> None:
        """A power cut: the node comes back when Slurm has noticed that it is gone."""
        number = int(node.removeprefix("n"))
        self.daemons.lose_node(number)
        end = time.monotonic() + 60
        while node in self._nodes_of_jobs().values() and time.monotonic() < end:
            time.sleep(0.2)
        self.daemons.start_node(number)


def _one(processes: list[psutil.Process], chance: random.Random) -> list[psutil.Process]:
    return [chance.choice(processes)] if processes else []


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


WAYS: dict[str, type[Way]] = {way.name: way for way in (Way, Restarts, Slurm)}
