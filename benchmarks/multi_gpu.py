#!/usr/bin/env python3
"""Several GPUs of one machine: are the numbers right, does it scale, does it survive a dead rank. One table at the end.

    python benchmarks/multi_gpu.py --gpus 4                        everything, with NCCL
    python benchmarks/multi_gpu.py --gpus 2 --accelerator cpu      what gloo can do, to try the script

Corpus, tokenizer and two tiny models are made below --out (seconds on a GPU machine). Each row is one or more runs of
pretrain_llm.py; every row is printed as soon as it is known and appended to OUT/rows.jsonl. A run that fails is a row too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks"), str(REPOSITORY / "benchmarks" / "gpu")]

import multi_gpu_models  # noqa: E402
import run_cases  # noqa: E402

from nemo_workflow.run_dir import checkpoints, metrics  # noqa: E402
from nemo_workflow.training import rank  # noqa: E402

BATCH = 16
TOLERANCE = 0.02  # of a loss in bf16, over other orders of summation
FP8_TOLERANCE = 0.05  # of a loss in fp8 from one in bf16: 0.022 was seen
DEATH_SECONDS = 60  # within which a run must end after one of its ranks has died


class Layout(NamedTuple):
    """`model` is a folder of multi_gpu_models; `ranks` what the flags need at least."""

    ranks: int
    flags: str = ""
    cpu: bool = True  # a CPU can: context parallelism and fp8 need Transformer Engine
    model: str = "dense"
    apart: float = TOLERANCE  # that a step's loss may be from one rank's


LAYOUTS = {
    "DP2": Layout(2),
    "TP2": Layout(2, "-TP 2"),
    "TP2+SP": Layout(2, "-TP 2 -SP"),
    "PP2": Layout(2, "-PP 2"),
    "PP2xVPP2": Layout(2, "-PP 2 -VPP 2"),
    "CP2": Layout(2, "-CP 2", cpu=False),
    "EP2": Layout(2, "-EP 2", model="experts"),
    "DP4": Layout(4),
    "DP4 deterministic": Layout(4, "--deterministic"),
    "TP4": Layout(4, "-TP 4"),
    "TP4+SP": Layout(4, "-TP 4 -SP"),
    "TP4+SP fp8": Layout(4, "-TP 4 -SP --fp8", cpu=False, apart=FP8_TOLERANCE),
    "PP4": Layout(4, "-PP 4"),
    "CP4": Layout(4, "-CP 4", cpu=False),
    "TP2+SPxDP2": Layout(4, "-TP 2 -SP"),
    "TP2xPP2": Layout(4, "-TP 2 -PP 2"),
    "TP2+SPxPP2xVPP2": Layout(4, "-TP 2 -SP -PP 2 -VPP 2"),
    "PP2xVPP2xDP2": Layout(4, "-PP 2 -VPP 2"),
    "PP2xCP2": Layout(4, "-PP 2 -CP 2", cpu=False),
    "TP2xCP2": Layout(4, "-TP 2 -CP 2", cpu=False),
    "TP2+SPxCP2": Layout(4, "-TP 2 -SP -CP 2", cpu=False),
    "CP2xDP2": Layout(4, "-CP 2", cpu=False),
    "EP4": Layout(4, "-EP 4", model="experts"),
    "EP2xDP2": Layout(4, "-EP 2", model="experts"),
    "EP2xPP2": Layout(4, "-EP 2 -PP 2", model="experts"),
    "EP2xTP2+SP": Layout(4, "-EP 2 -TP 2 -SP", model="experts"),
}
RECIPES = {"dense": "llama_tiny", "experts": "mixtral_8x7b"}
MOVES = ((1, ""), (2, "-TP 2"), (2, ""), (4, "-TP 2"))  # one run, part by part: 1 -> 2 -> 4 ranks, TP to DP


ONE_B = "llama32_1b"


class Big(NamedTuple):
    """A model of the scaling rows: least GPUs, sequences a GPU and step, flags, what it must reach on 8 GPUs."""

    least: int
    share: int
    flags: str
    wanted: dict[str, int]


BIG = {
    ONE_B: Big(1, 16, "", {}),
    # 64 GiB a card on four: what fits 80 GB without recomputing anything
    "llama31_8b": Big(4, 8, "-mbs 1 -TP 2 -SP", {"bf16": 10_500, "fp8": 14_500}),
}
# what the recipes overlap when nothing is said -> the field that turns it off, and the least ranks at which it matters
OVERLAPS = {
    "gradient reduction": ("trainer.strategy.ddp.overlap_grad_reduce", False),
    "parameter gather": ("trainer.strategy.ddp.overlap_param_gather", False),
}


class Bench:
    """Runs pretrain_llm.py and reads what it wrote."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.cpu = options.accelerator == "cpu"
        self.data: Path = options.out / "data"
        self.rows: list[dict[str, str]] = []

    def row(self, what: str, numbers: str, right: bool | None = None) -> None:
        row = {"what": what, "seen": numbers, "verdict": {None: "", True: "ok", False: "WRONG"}[right]}
        self.rows.append(row)
        with (self.options.out / "rows.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(line(row), flush=True)

    def command(self, name: str, ranks: int, flags: Sequence[str]) -> list[str]:
        data = ["--hf-model-id", str(self.data / "tokenizer"), "--dataset-dir", str(self.data / "dataset")]
        place = ["--output-dir", str(self.options.out), "-E", name, "--accelerator", self.options.accelerator]
        return [sys.executable, "pretrain_llm.py", *data, *place, "-G", str(ranks), *flags]

    def start(self, name: str, ranks: int, flags: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.options.out / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(name, ranks, flags), cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, name: str, ranks: int, flags: Sequence[str]) -> list[dict[str, Any]]:
        """The step events of a run; raises RuntimeError with the end of its log."""
        ended(self.start(name, ranks, flags), self.options.out / f"{name}.log", self.options.limit)
        return self.steps(name)

    def steps(self, name: str) -> list[dict[str, Any]]:
        history = metrics.read(self.options.out / name / metrics.FILE)
        return [event for event in history if event["event"] == "step"]

    def tiny(self, model: str, flags: str, save_every: int | None = None) -> list[str]:
        steps = self.options.steps
        base = f"--model-name {RECIPES[model]} -gbs {BATCH} -mbs 2 --seq-length 256 --lr 1e-3 --max-steps {steps}"
        base += f" --val-check-interval {steps} --save-every {save_every or steps}"
        if model == "experts" and "-EP" not in flags:
            flags += " -EP 1"  # the recipe's own is 8
        return [*base.split(), "--nemo-model", str(self.data / model), *flags.split()]


def ended(process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Wait for a run; raises RuntimeError with the end of its log if it fails or takes too long."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise RuntimeError(f"took more than {seconds:g} s") from None
    if code:
        raise RuntimeError(log.read_text(errors="replace").strip()[-300:])


# -- parts ------------------------------------------------------------------------------------------------------------


def parity(bench: Bench) -> None:
    """From the same weights every layout gives one rank's losses."""
    chosen = bench.options.layouts.split(",") if bench.options.layouts else list(LAYOUTS)
    wanted = {name: layout for name, layout in LAYOUTS.items() if name in chosen and layout.ranks <= bench.options.gpus}

    def run(name: str, layout: Layout) -> dict[int, float] | RuntimeError | None:
        if bench.cpu and not layout.cpu:
            return None
        try:
            return losses(
                bench.run(
                    name.replace("+", "_").replace(" ", "_"), layout.ranks, bench.tiny(layout.model, layout.flags)
                )
            )
        except RuntimeError as error:
            return error

    models = dict.fromkeys(layout.model for layout in wanted.values())
    single = {f"one_{model}": Layout(1, model=model) for model in models}
    runs = {**single, **wanted}
    with ThreadPoolExecutor(bench.options.together) as pool:
        found = dict(zip(runs, pool.map(run, runs, runs.values()), strict=True))
    for name, layout in wanted.items():
        seen, one = found[name], found[f"one_{layout.model}"]
        if isinstance(one, RuntimeError):
            raise one
        if seen is None or one is None:
            bench.row(f"losses {name}", "not on a CPU: needs Transformer Engine")
        elif isinstance(seen, RuntimeError):
            bench.row(f"losses {name}", short(seen), False)
        else:
            bench.row(f"losses {name}", *compared(seen, one, layout.apart))


def resume(bench: Bench) -> None:
    """A run goes on with other numbers of ranks: the samples go on too, and the losses are one rank's."""
    name, every = "one_dense", 5
    moves = [move for move in MOVES if move[0] <= bench.options.gpus]
    for part, (ranks, flags) in enumerate(moves, 1):
        process = bench.start("moved", ranks, bench.tiny("dense", flags, every))
        stop_after(bench, "moved", bench.options.steps * part // len(moves), process)
    steps = bench.steps("moved")
    single = losses(bench.steps(name) or bench.run(name, 1, bench.tiny("dense", "")))
    apart, right = compared(losses(steps), single)
    consumed = [event["consumed_samples"] for event in steps]
    once = consumed == [BATCH * event["step"] for event in steps] == [BATCH * step for step in single]
    named = " -> ".join(f"{ranks}{' ' + flags if flags else ''}" for ranks, flags in moves)
    bench.row(f"resume, ranks {named}", f"{apart}; each sample {'once' if once else 'NOT once'}", right and once)


def stop_after(bench: Bench, name: str, step: int, process: subprocess.Popen[bytes]) -> None:
    """Ask a run to stop, as Ctrl-C would, once it has done `step` steps; one that is to end by itself is let go on."""
    end = time.monotonic() + bench.options.limit
    while process.poll() is None and time.monotonic() < end:
        if step < bench.options.steps and any(event["step"] >= step for event in bench.steps(name)):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.1)
    with contextlib.suppress(RuntimeError):  # stopped runs end with another code than 0
        ended(process, bench.options.out / f"{name}.log", bench.options.limit)


def dead_rank(bench: Bench) -> None:
    """kill -9 of one rank ends the whole run within a minute, and the same command continues it from its checkpoint."""
    steps, flags = bench.options.steps, bench.tiny("dense", "", save_every=5)
    process = bench.start("dead", bench.options.gpus, flags)
    end = time.monotonic() + bench.options.limit
    while process.poll() is None and not saved_step(bench, "dead"):
        if time.monotonic() > end:
            process.terminate()
        time.sleep(0.1)
    if process.poll() is not None:
        bench.row("kill -9 of a rank", "the run ended before it could be killed", False)
        return
    ranks = ranks_of(process.pid)
    began = time.monotonic()
    ranks[-1].kill()
    code = process.wait()
    seconds = time.monotonic() - began
    left = [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    seen = f"one of {len(ranks)} ranks killed: all gone after {seconds:.0f} s, exit code {code}"
    bench.row("kill -9 of a rank", seen, code != 0 and seconds < DEATH_SECONDS and not left)
    saved = saved_step(bench, "dead")
    try:
        last = bench.run("dead", bench.options.gpus, flags)[-1]["step"]
    except RuntimeError as error:
        bench.row("the same command again", short(error), False)
        return
    begun = starts(bench, "dead")[-1]
    right = last == steps and 0 < saved == begun
    bench.row("the same command again", f"from step {begun}, the last one saved ({saved}), to step {last}", right)


def saved_step(bench: Bench, name: str) -> int:
    """The step of a run's newest whole checkpoint, 0 where there is none: a run killed then begins again."""
    newest, _ = checkpoints.newest_whole(bench.options.out / name / "checkpoints")
    return newest.step if newest else 0


def starts(bench: Bench, name: str) -> list[int]:
    """The step after which each start of a run went on."""
    history = metrics.read(bench.options.out / name / metrics.FILE)
    return [event["step"] for event in history if event["event"] == "start"]


def ranks_of(launcher: int) -> list[psutil.Process]:
    """The processes of the ranks, by rank; not what they have forked, a checkpoint's writer for one."""
    found: dict[int, tuple[int, psutil.Process]] = {}
    for child in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if (number := rank.number(child)) >= 0:
                found[child.pid] = (number, child)
    parents = {pid: child.ppid() for pid, (_, child) in found.items()}
    ranks = [entry for pid, entry in found.items() if parents[pid] not in found]
    return [child for _, child in sorted(ranks, key=lambda entry: entry[0])]


def overlap(bench: Bench) -> None:
    """What each overlap of communication brings, at two data parallel ranks and more: with it, and with it turned off."""
    rates: dict[str, float] = {}
    for name, fields in (("all on", {}), *((f"without {name}", dict([off])) for name, off in OVERLAPS.items())):
        try:
            rates[name] = case(bench, f"overlap {name}", ONE_B, bench.options.gpus, fields=fields)
        except RuntimeError as error:
            bench.row(f"overlap: {name}", short(error), False)
            continue
        if bench.options.accelerator == "cpu":
            bench.row(f"overlap: {name}", "ran; over gloo both are off, so its speed says nothing")
            continue
        gain = f", {rates['all on'] / rates[name] - 1:+.1%} with it" if name != "all on" and "all on" in rates else ""
        bench.row(f"overlap: {name}", f"{rates[name]:,.0f} tokens/s/GPU{gain}")


def speeds(bench: Bench) -> None:
    """The speed of one model at every layout of as many ranks as there are GPUs."""
    for name, layout in LAYOUTS.items():
        if layout.ranks != bench.options.gpus or layout.model != "dense" or (bench.cpu and not layout.cpu):
            continue
        try:
            rate = case(bench, f"speed {name}", ONE_B, layout.ranks, layout.flags)
        except RuntimeError as error:
            bench.row(f"speed {name}", short(error), False)
            continue
        bench.row(f"speed {name}", f"{rate:,.0f} tokens/s/GPU")


def case(bench: Bench, name: str, model: str, ranks: int, flags: str = "", fields: Any = None) -> float:
    """Tokens/s/GPU of a run that saves nothing, with recipe fields laid over our recipe (a case of benchmarks/gpu/run_cases.py)."""
    share = BIG[model].share
    if bench.cpu:
        model, share = "llama_tiny", 8
    place = name.replace(" ", "_")
    words = (
        f"--model-name {model} -gbs {share * ranks} --max-steps 12 --val-check-interval 12 -E {place} {flags}".split()
    )
    words += ["--hf-model-id", "{tokenizer}", "--dataset-dir", "{data}"]
    told = {
        "name": place,
        "flags": words,
        "set": fields or {},
        "ranks": ranks,
        "accelerator": bench.options.accelerator,
    }
    where = argparse.Namespace(out=bench.options.out / "cases", data=bench.options.data or bench.data)
    folder, process = where.out / place, run_cases.start(told, where)
    assert process.stdin
    process.stdin.close()  # nothing else trains: it need not wait
    ended(process, folder / "log", bench.options.limit)
    return float(json.loads((folder / "result.json").read_text())["tok_s"]) / ranks


def scaling(bench: Bench) -> None:
    """Tokens a second and GPU at 1, 2, 4, … GPUs, the same work for each GPU."""
    if bench.cpu:
        bench.row("scaling", "not on a CPU: the models are too large")
        return
    for model, big in BIG.items():
        for precision in ("bf16", "fp8"):
            scale(bench, model, big, precision)


def scale(bench: Bench, model: str, big: Big, precision: str) -> None:
    first = 0.0
    ranks = big.least
    while ranks <= bench.options.gpus:
        name = f"scaling {model} {precision} {ranks}"
        try:
            rate = case(bench, name, model, ranks, big.flags + (" --fp8" if precision == "fp8" else ""))
        except RuntimeError as error:
            bench.row(name, short(error), False)
            return
        first = first or rate
        wanted = big.wanted.get(precision, 0) if ranks == 8 else 0
        bench.row(name, *scaled(rate, first, big.least, wanted))
        ranks *= 2


# -- what a row says --------------------------------------------------------------------------------------------------


def losses(steps: list[dict[str, Any]]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in steps}


def compared(found: dict[int, float], single: dict[int, float], allowed: float = TOLERANCE) -> tuple[str, bool]:
    """How far losses lie from one rank's; wrong when steps are missing too."""
    if found.keys() != single.keys():
        return f"{len(found)} of {len(single)} steps", False
    apart = max(abs(found[step] - single[step]) for step in single)
    first, last = min(single), max(single)
    return (
        f"{len(found)} steps, loss {single[first]:.3f} to {single[last]:.3f}, at most {apart:.4f} apart",
        apart <= allowed,
    )


def scaled(rate: float, first: float, least: int, wanted: int) -> tuple[str, bool]:
    """Tokens/s/GPU, weak scaling efficiency against the least number of GPUs, and what is asked for."""
    goal = f", wanted {wanted:,}" if wanted else ""
    return (
        f"{rate:,.0f} tokens/s/GPU, {rate / first:.1%} of that at {least}{goal}",
        rate / first >= 0.95 and rate >= wanted,
    )


def short(error: Exception) -> str:
    return "failed: " + " ".join(str(error).split())[-100:]


def line(row: dict[str, str]) -> str:
    return f"{row['what']:40} {row['seen']:78} {row['verdict']}"


PARTS: dict[str, Callable[[Bench], None]] = {
    "parity": parity,
    "resume": resume,
    "dead_rank": dead_rank,
    "overlap": overlap,
    "speeds": speeds,
    "scaling": scaling,
}
SPEED = {"overlap", "speeds", "scaling"}  # what trains a model of full size


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, required=True, help="ranks of this machine to use")
    parser.add_argument("--accelerator", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--out", type=Path, default=Path("multi_gpu_output"))
    parser.add_argument("--steps", type=int, default=50, help="of the tiny models")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of " + ", ".join(PARTS))
    parser.add_argument("--layouts", default="", help="of parity: which of " + ", ".join(LAYOUTS))
    parser.add_argument(
        "--data", type=Path, help="tokenizer/ and dataset/ for what measures speed; unset: a tiny vocabulary"
    )
    parser.add_argument("--together", type=int, default=1, help="runs of parity at once (their speed says nothing)")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a run is ended")
    options = parser.parse_args(words)
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    parts = options.parts.split(",")
    if not options.data or not set(parts) <= SPEED:
        multi_gpu_models.prepare(bench.data)
    for part in parts:
        try:
            PARTS[part](bench)
        except RuntimeError as error:  # the run that the part's others are compared with
            bench.row(part, short(error), False)
    print("\n" + "\n".join(map(line, bench.rows)))
    return int(any(row["verdict"] == "WRONG" for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
