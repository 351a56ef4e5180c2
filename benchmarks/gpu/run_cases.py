#!/usr/bin/env python3
"""Run training cases on a machine's GPUs, as many as the time allows, and print a table.

    python benchmarks/gpu/run_cases.py CASES.json --data DATA --out OUT [--limit SECONDS] [--only PATTERN]
    python benchmarks/gpu/run_cases.py CASES.json --cards 0,1,2,3 …         several at once: each case takes as many cards as it has ranks
    python benchmarks/gpu/run_cases.py CASES.json --rehearse        every case with the tiny model on a CPU, two steps

CASES.json holds a list of objects in the order of their worth:
  name, flags        what pretrain_llm.py would be given; {data} is dataset/ in --data, {tokenizer} and other names their folders there;
                     {out} is --out
  kind               "train" (default), "stock" for NeMo's recipe without us, "peer" for transformers with torch.compile,
                     "check" for the kernels by themselves, "launch" for pretrain_llm.py with its own launcher,
                     "command" for any other line of `command`, which bash runs in the repository
  set, none          recipe fields laid over the recipe; those that may be set to null
  stock              nothing of ours
  plain_head, plain_elementwise, plain_attention   without the fused output layer, the element-wise kernels, FlashAttention 4
  plain_casts        without the kernels that cast SwiGLU's output and gradient to fp8
  plain_save         a save as megatron-core makes it
  no_guard, no_source_losses   without the look at each gradient; without the sums of each source's losses
  count_source_losses   the CPU seconds inside the code of these sums are measured
  profile, save      torch profiler on the sixth step; checkpoints are written
  warm_up            steps that are not timed (default 4)
  again, forget      the run of that case goes on, its checkpoint of step `forget` gone
  after              the case that must have ended before this one is begun
  head               of a check: the width of an attention head (default 64)
  ranks              GPUs of one run, by torchrun (default 1)
  small              may run beside other small ones: its speed says nothing
  seconds, timeout   what it needs at least to be started before the limit; when it is killed
  unchecked          names of rules of config/checks that the case may break
  module             a Python module that is imported before the training, to try a patch; its `install`, if it has one, is called
  first              nothing else is run when it fails

The imports of the next cases happen while one trains, so that the GPU hardly waits. Each result is appended to OUT/results.jsonl
as soon as it is known; a case that fails, hangs or runs out of memory costs only itself.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))

import turn

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
BESIDE = 4  # small cases at once
SECONDS, TIMEOUT = 25.0, 180.0
SCRIPTS = {"train": "case.py", "stock": "stock.py", "peer": "peer.py", "check": "check_kernels.py"}
GPU_FLAGS = {  # not for a rehearsal on a CPU -> how many words follow
    "--fp8": 0, "--fp8-output-layer": 0, "--fp8-recipe": 1, "--optim-cpu-offloading": 0, "--optim-cpu-offloading-frac": 1, "--cpu-offloading": 0,
    "--cpu-offloading-layers": 1, "--cpu-offloading-activations": 0, "--cpu-offloading-weights": 0, "--precision": 1, "--optimizer-precision": 1,
    "--seq-length": 1, "-mbs": 1, "-gbs": 1, "--max-steps": 1, "--val-check-interval": 1, "--save-every": 1, "--warmup-steps": 1,
}  # fmt: skip
PORTS = itertools.count(12_000 + os.getpid() % 1000 * 20)  # other lists of cases may run on this machine
Case = dict[str, Any]


@dataclass
class Running:
    """A case whose process imports, waits for its turn, or trains."""

    case: Case
    process: subprocess.Popen[bytes]
    cards: tuple[str, ...]
    began: float = field(default_factory=time.monotonic)  # of the process, later of the training
    training: bool = False
    ready: bool = False  # has imported: its time counts from here


class Runner:
    def __init__(self, cases: list[Case], options: argparse.Namespace):
        self.options = options
        self.end = time.monotonic() + options.limit
        self.waiting = cases
        self.running: list[Running] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.order = [case["name"] for case in cases]
        self.busy_until = dict.fromkeys(options.cards, 0.0)  # by the seconds that the cases need at least

    def run(self) -> list[dict[str, Any]]:
        while self.waiting or self.running:
            self.load()
            self.let_go()
            for item in [item for item in self.running if item.training]:
                self.look_after(item)
            time.sleep(0.05)
        return [self.results[name] for name in self.order]

    def load(self) -> None:
        """Start the processes of the next cases, which import and wait."""
        while self.waiting and sum(not item.training for item in self.running) < self.options.ahead:
            if self.waiting[0].get("after") in {item.case["name"] for item in self.running}:
                return
            case = self.waiting.pop(0)
            cards = self.cards_for(case)
            self.running.append(Running(case, start(case, self.options, cards), cards))

    def cards_for(self, case: Case) -> tuple[str, ...]:
        """The cards that are free first."""
        count = case.get("ranks", 1) if len(self.busy_until) > 1 else 1
        cards = tuple(sorted(self.busy_until, key=lambda card: self.busy_until[card])[:count])
        end = max(self.busy_until[card] for card in cards) + case.get("seconds", SECONDS)
        self.busy_until.update(dict.fromkeys(cards, end))
        return tuple(sorted(cards))

    def let_go(self) -> None:
        """Let the next cases of each card train: one alone, or small ones together, in their order."""
        awaited: set[str] = set()  # cards that an earlier case waits for
        for item in [item for item in self.running if not item.training]:
            case = item.case
            busy = [other for other in self.running if other.training and set(other.cards) & set(item.cards)]
            if self.end - time.monotonic() < case.get("seconds", SECONDS):
                self.give_up(item, "not run: out of time")
                continue
            if case.get("again") in {other.case["name"] for other in self.running}:
                continue
            together = case.get("small") and all(other.case.get("small") for other in busy)
            if awaited & set(item.cards) or (busy and (not together or len(busy) >= BESIDE)):
                awaited |= set(item.cards)
                continue
            item.training, item.began = True, time.monotonic()
            if item.process.stdin:
                with contextlib.suppress(BrokenPipeError):  # it died in its imports: its log says why
                    item.process.stdin.write(b"go\n")
                    item.process.stdin.close()

    def look_after(self, item: Running) -> None:
        if not item.ready and (self.options.out / item.case["name"] / turn.READY).exists():
            item.ready, item.began = True, time.monotonic()
        seconds = item.case.get("timeout", TIMEOUT) if item.ready else TIMEOUT
        limit = min(item.began + seconds, self.end)
        if item.process.poll() is None and time.monotonic() < limit:
            return
        late = item.process.poll() is None
        end(item.process)
        self.running.remove(item)
        self.keep(result_of(item, self.options, late))

    def give_up(self, item: Running, why: str) -> None:
        end(item.process)
        self.running.remove(item)
        self.keep({"name": item.case["name"], "error": why})

    def keep(self, result: dict[str, Any]) -> None:
        self.results[result["name"]] = result
        with (self.options.out / "results.jsonl").open("a") as stream:
            stream.write(json.dumps(result) + "\n")
        print(line(result), flush=True)
        if "error" in result and self.options.stop_after_first and result["name"] == self.order[0]:
            print("the first case failed: nothing else is run", flush=True)
            self.end = 0.0


def start(case: Case, options: argparse.Namespace, cards: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """The case's process: imports, then waits for a line on its standard input."""
    folder = (options.out / case["name"]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / turn.READY).unlink(missing_ok=True)
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ, "PYTHONUNBUFFERED": "1", **case.get("env", {})}
    if len(options.cards) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment["STARTED_AT"] = str(time.time())
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        environment[name] = value
    environment["MASTER_PORT"] = str(free_port())
    kind = case.get("kind", "train")
    ranks = case.get("ranks", 1)
    if ranks > 1 and len(options.cards) == 1 and environment["CUDA_VISIBLE_DEVICES"] == "0":
        del environment["CUDA_VISIBLE_DEVICES"]
    if kind == "command":
        ready, result = (shlex.quote(str(folder / name)) for name in (turn.READY, "result.json"))
        words = ["bash", "-c", f"touch {ready}; read -r _; {{ {case['command']}; }} && echo '{{}}' >{result}"]
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        script = str(HERE / SCRIPTS.get(kind, "launch.py"))
        words = [sys.executable, *(torchrun if ranks > 1 else []), script]
        words += [json.dumps(case), str(folder), str(options.data)]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=REPOSITORY,
            start_new_session=True,
        )


def free_port() -> int:
    """A port below those that the system gives away: the case takes it only when it trains, and other cases start meanwhile."""
    for port in PORTS:
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def end(process: subprocess.Popen[bytes]) -> None:
    """No process of the case may hold GPU memory when the next one trains: its ranks', its data loader's, its writer's."""
    below = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.terminate()
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in below:  # torchrun's ranks are in sessions of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(below, 20)
    process.wait()


def result_of(item: Running, options: argparse.Namespace, late: bool) -> dict[str, Any]:
    """What a case measured, or the end of what it complained of."""
    folder = options.out / item.case["name"]
    known = {"name": item.case["name"], "seconds": round(time.monotonic() - item.began, 1)}
    if (folder / "result.json").exists():
        return {**known, **json.loads((folder / "result.json").read_text())}
    text = (folder / "log").read_text(errors="replace")
    run = options.out / item.case.get("again", item.case["name"])  # its newest attempt
    for rank_log in sorted(run.rglob("rank0.error"))[-1:]:
        text += rank_log.read_text(errors="replace")
    said = " | ".join(text.strip().splitlines()[-4:])[-2000:]
    return {**known, "error": f"{'killed, too late: ' if late else ''}{said}"}


HEAD = f"{'case':30} {'tok/s':>8} {'outside':>8} {'MFU %':>6} {'alloc GiB':>9} {'planned':>8} {'reserved':>8} {'loss':>8} {'s':>6}"


def line(result: dict[str, Any]) -> str:
    """A line of the table."""
    if "error" in result:
        return f"{result['name']:30} {result.get('seconds', 0):6.1f} s  {result['error'][-150:]}"
    numbers = [
        result.get(name) or 0 for name in ("tok_s", "outside_tok_s", "mfu", "alloc", "planned", "reserved", "loss")
    ]
    tok_s, outside, mfu, alloc, planned, reserved, loss = numbers
    return (
        f"{result['name']:30} {tok_s:8.0f} {outside:8.0f} {mfu * 100:6.2f} {alloc:9.2f} {planned:8.2f} {reserved:8.2f}"
        f" {loss:8.4f} {result.get('seconds', 0):6.1f}"
    )


def rehearsed(case: Case) -> Case:
    """The same case for a CPU: the tiny model, two steps, without the flags that a CPU refuses."""
    case = {
        **case,
        "accelerator": "cpu",
        "set": {},
        "steps": 5,
        "model": "llama_tiny",
        "rehearse": True,
        "timeout": 900,
    }
    if "flags" not in case:
        return case
    words, kept = iter(case["flags"]), []
    for word in words:
        if word in GPU_FLAGS:
            for _ in range(GPU_FLAGS[word]):
                next(words)
        elif word in ("--model-name", "-M"):
            next(words)
        else:
            kept.append(word)
    steps = ["--max-steps", "4", "--save-every", "2", "--val-check-interval", "2", "-gbs", "4", "-mbs", "2"]
    return {**case, "flags": [*kept, "--model-name", "llama_tiny", *steps], "forget": 4}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", default="*", help="patterns of names, separated by commas")
    parser.add_argument("--data", type=Path, default=Path("/tmp/data"), help="folder with dataset/ and tokenizer/")
    parser.add_argument("--out", type=Path, default=Path("gpu_cases"))
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which everything is over")
    parser.add_argument(
        "--cards", type=lambda text: text.split(","), default=["0"], help="GPUs to share out among the cases"
    )
    parser.add_argument("--ahead", type=int, default=6, help="processes that import while others train")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, to run every line once")
    options = parser.parse_args()
    options.out, options.data = options.out.absolute(), options.data.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = json.loads(options.cases.read_text())
    cases = [c for c in cases if any(fnmatch.fnmatch(c["name"], only) for only in options.only.split(","))]
    options.stop_after_first = bool(cases and cases[0].get("first"))
    if options.rehearse:
        cases = [rehearsed(case) for case in cases]
    results = Runner(cases, options).run()
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    print("\n".join([HEAD, *map(line, results)]))


if __name__ == "__main__":
    main()
