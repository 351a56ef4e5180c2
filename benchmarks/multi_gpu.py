#!/usr/bin/env python3
"""Several GPUs of one machine: are the numbers right, does it scale, does it survive a dead rank. One table at the end.

    python benchmarks/multi_gpu.py --gpus 4 --data DATA --nemo-model TINY     everything, with NCCL
    python benchmarks/multi_gpu.py --gpus 2 --accelerator cpu …               what gloo can do, to try the script

DATA holds tokenizer/ and dataset/ (.bin/.idx); TINY is a NeMo 2 checkpoint of the built-in llama_tiny with that
tokenizer, so that every layout starts from the same weights. Each row is one or two runs of pretrain_llm.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = 50
TOLERANCE = 0.02  # of a loss in bf16, over other orders of summation
BIG = {"llama32_1b": (1, 16), "llama31_8b": (4, 32)}  # least GPUs, sequences a GPU and step
# name -> (least ranks, flags, whether a CPU can)
LAYOUTS: dict[str, tuple[int, str, bool]] = {
    "DP2": (2, "", True),
    "TP2": (2, "-TP 2", True),
    "TP2+SP": (2, "-TP 2 -SP", True),
    "PP2": (2, "-PP 2", True),
    "PP2xVPP2": (2, "-PP 2 -VPP 2", True),
    "CP2": (2, "-CP 2", False),
    "TP2xPP2": (4, "-TP 2 -PP 2", True),
    "TP2xCP2": (4, "-TP 2 -CP 2", False),
    "DP4": (4, "", True),
}


class Bench:
    """Runs pretrain_llm.py and reads what it wrote."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rows: list[tuple[str, str, str]] = []  # what, numbers, verdict

    def row(self, what: str, numbers: str, right: bool | None = None) -> None:
        self.rows.append((what, numbers, {None: "", True: "ok", False: "WRONG"}[right]))
        print(f"{what:34} {numbers:60} {self.rows[-1][2]}", flush=True)

    def command(self, name: str, ranks: int, flags: Sequence[str]) -> list[str]:
        options = self.options
        data = ["--hf-model-id", str(options.data / "tokenizer"), "--dataset-dir", str(options.data / "dataset")]
        place = ["--output-dir", str(options.out), "-E", name, "--accelerator", options.accelerator]
        return [sys.executable, "pretrain_llm.py", *data, *place, "-G", str(ranks), *flags]

    def start(self, name: str, ranks: int, flags: Sequence[str]) -> subprocess.Popen[bytes]:
        self.options.out.mkdir(parents=True, exist_ok=True)
        with (self.options.out / f"{name}.log").open("ab") as log:
            return subprocess.Popen(self.command(name, ranks, flags), cwd=REPOSITORY, stdout=log, stderr=log)

    def run(self, name: str, ranks: int, flags: Sequence[str]) -> list[dict[str, Any]]:
        """The step events of a run; raises RuntimeError with the end of its log."""
        if self.start(name, ranks, flags).wait():
            log = (self.options.out / f"{name}.log").read_text(errors="replace")
            raise RuntimeError(log.strip()[-300:])
        return self.steps(name)

    def steps(self, name: str) -> list[dict[str, Any]]:
        path = self.options.out / name / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == "step"]

    def tiny(self, *more: str) -> list[str]:
        base = (
            f"--model-name llama_tiny -gbs 16 -mbs 2 --max-steps {STEPS} --save-every 10 --val-check-interval {STEPS}"
        )
        return [*base.split(), "--nemo-model", str(self.options.nemo_model), *more]


def parity(bench: Bench) -> None:
    """From the same weights every layout gives one rank's losses."""
    single = losses(bench.run("one", 1, bench.tiny()))
    for name, (ranks, flags, on_cpu) in LAYOUTS.items():
        if ranks > bench.options.gpus or (bench.options.accelerator == "cpu" and not on_cpu):
            continue
        try:
            found = losses(bench.run(name.replace("+", "_"), ranks, bench.tiny(*flags.split())))
        except RuntimeError as error:
            bench.row(f"losses {name}", f"failed: {error}"[-60:], False)
            continue
        apart = max(abs(found[step] - single[step]) for step in single)
        bench.row(f"losses {name}", f"{STEPS} steps, at most {apart:.4f} from one rank", apart <= TOLERANCE)


def resume(bench: Bench) -> None:
    """A run goes on with other numbers of ranks: the samples go on too, and the losses are one rank's."""
    single = losses(bench.run("one", 1, bench.tiny()))  # there already when parity ran before
    ranks, done = 1, 10
    plan = []
    while ranks <= bench.options.gpus and done <= STEPS:
        plan.append((ranks, done))
        ranks, done = ranks * 2, done + 20
    for ranks, done in plan:
        flags = ["-TP", "2"] if ranks == 2 else []
        process = bench.start("moved", ranks, bench.tiny(*flags))
        stop_after(bench, "moved", done, process)
    steps = bench.steps("moved")
    consumed = [event["consumed_samples"] for event in steps]
    apart = max(abs(event["loss"] - single[event["step"]]) for event in steps)
    bench.row(
        "resume with " + ", ".join(str(ranks) for ranks, _ in plan) + " ranks",
        f"{len(steps)} steps, at most {apart:.4f} from one rank, last sample {consumed[-1]}",
        apart <= TOLERANCE and consumed == [16 * event["step"] for event in steps],
    )


def stop_after(bench: Bench, name: str, step: int, process: subprocess.Popen[bytes]) -> None:
    """Ask a run to stop, as Ctrl-C would, once it has done `step` steps."""
    while process.poll() is None:
        if any(event["step"] >= step for event in bench.steps(name)) and step < STEPS:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.2)
    process.wait()


def scaling(bench: Bench) -> None:
    """Tokens a second and GPU at 1, 2, 4, … GPUs, the same work for each GPU."""
    for model, (least, share) in BIG.items():
        for words in ([], ["--fp8"]):
            scale(bench, model, least, share, words)


def scale(bench: Bench, model: str, least: int, share: int, words: list[str]) -> None:
    first = 0.0
    ranks = least
    while ranks <= bench.options.gpus:
        name = "-".join([model, *words, str(ranks)]).replace("--", "")
        flags = ["--model-name", model, "-gbs", str(share * ranks), "--max-steps", "12", *words]
        flags += ["--val-check-interval", "12"] + (["-TP", "1"] if model == "llama32_1b" else ["-CP", "2"])
        try:
            rate = statistics.median(e["tokens_per_second"] for e in bench.run(name, ranks, flags)[4:]) / ranks
        except RuntimeError as error:
            bench.row(name, f"failed: {error}"[-60:], False)
            return
        first = first or rate
        bench.row(name, f"{rate:,.0f} tokens/s/GPU, {rate / first:.1%} of {least}", rate / first >= 0.95)
        shutil.rmtree(bench.options.out / name / "checkpoints", ignore_errors=True)
        ranks *= 2


def dead_rank(bench: Bench) -> None:
    """kill -9 of one rank ends the whole run within a minute, and the same command continues it."""
    process = bench.start("dead", bench.options.gpus, bench.tiny())
    while process.poll() is None and not any(event["step"] >= 12 for event in bench.steps("dead")):
        time.sleep(0.2)
    began = time.monotonic()
    ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if is_rank(child)]
    ranks[-1].kill()
    code = process.wait()
    seconds = time.monotonic() - began
    bench.row("kill -9 of a rank", f"the run ended with {code} after {seconds:.0f} s", code != 0 and seconds < 60)
    steps = bench.run("dead", bench.options.gpus, bench.tiny())
    bench.row("the same command again", f"from its checkpoint to step {steps[-1]['step']}", steps[-1]["step"] == STEPS)


def is_rank(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "fdl_runner" in " ".join(process.cmdline()) and "torchrun" not in " ".join(process.cmdline())
    return False


def losses(steps: list[dict[str, Any]]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in steps}


PARTS: dict[str, Callable[[Bench], None]] = {
    "parity": parity,
    "resume": resume,
    "dead_rank": dead_rank,
    "scaling": scaling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, required=True, help="ranks of this machine to use")
    parser.add_argument("--accelerator", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nemo-model", type=Path, required=True, help="checkpoint of llama_tiny")
    parser.add_argument("--out", type=Path, default=Path("multi_gpu"))
    parser.add_argument("--parts", default=",".join(PARTS), help="which of " + ", ".join(PARTS))
    options = parser.parse_args()
    options.out, options.data = options.out.absolute(), options.data.absolute()
    options.nemo_model = options.nemo_model.absolute()
    bench = Bench(options)
    for part in options.parts.split(","):
        if part == "scaling" and options.accelerator == "cpu":
            continue  # the models are too large
        PARTS[part](bench)
    print("\n" + "\n".join(f"{what:34} {numbers:60} {verdict}" for what, numbers, verdict in bench.rows))
    sys.exit(any(verdict == "WRONG" for _, _, verdict in bench.rows))


if __name__ == "__main__":
    main()
