"""What a training's start costs: three steps of a tiny model on CPU ranks, CPU seconds (user + system) of all its processes.

    python benchmarks/training_start.py --checkouts OLDER . --ranks 1 2

Checkouts take turns, so that a busy moment hits all of them; each is started with its own .venv. Prints the medians: CPU seconds
in all and by kind of process, seconds from the command to the end of the first step and to the prompt, and whether the losses of
all checkouts are the same to the last bit.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_workflow.run_dir import metrics
from nemo_workflow.utils.processes import PR_SET_CHILD_SUBREAPER
from tests.e2e.run.conftest import make_corpus

KINDS = {  # of a process, by a word of its name and command; the first that fits
    "report": "nemo_workflow.report",
    "rank": "rank ",
    "torchrun": "torchrun",
    "launcher": "pretrain_llm.py",
}
LOOK_SECONDS = (
    0.05  # between two looks at the processes: what a process does after the last one is counted in the sum only
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--checkouts", type=Path, nargs="+", default=[Path()])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # processes that outlive their parent are waited for too
    print("| Checkout | Ranks | CPU, s | " + " | ".join(KINDS) + " | first step, s | prompt, s |")
    print("|---|---|---|" + "---|" * (len(KINDS) + 2), flush=True)
    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name) / "corpus")
        for ranks in arguments.ranks:
            found: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in arguments.checkouts}
            losses = set()
            for _ in range(arguments.repetitions):
                for checkout, starts in found.items():
                    seen, steps = start(checkout.resolve(), corpus, Path(name) / "runs", ranks)
                    starts.append(seen)
                    losses.add(tuple(steps))
            for checkout, starts in found.items():
                medians = [statistics.median(one[key] for one in starts) for key in starts[0]]
                print(f"| {checkout} | {ranks} | " + " | ".join(f"{value:.1f}" for value in medians) + " |")
            print(f"{ranks} rank(s): " + ("losses the same" if len(losses) == 1 else f"LOSSES DIFFER: {losses}"))
            sys.stdout.flush()


def start(checkout: Path, corpus: Path, output: Path, ranks: int) -> tuple[dict[str, float], list[float]]:
    """(what one start took, its losses). Raises CalledProcessError where it fails."""
    shutil.rmtree(output, ignore_errors=True)
    command = [
        str(checkout / ".venv" / "bin" / "python"), "pretrain_llm.py", "--accelerator", "cpu", "--model-name", "llama_tiny",
        "--hf-model-id", str(corpus / "tokenizer"), "--dataset-dir", str(corpus / "dataset"), "--output-dir", str(output),
        "--experiment", "run", "--num-gpus", str(ranks), "--global-batch-size", "4", "--micro-batch-size", "2",
        "--seq-length", "64", "--max-steps", "3", "--save-every", "3", "--val-check-interval", "3", "--log-every", "1",
    ]  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL)
    seconds, prompt = follow(process)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    steps = [event for event in metrics.read(output / "run" / metrics.FILE) if event["event"] == "step"]
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "total": total,
        **{kind: sum(value for found, value in seconds.values() if found == kind) for kind in KINDS},
        "first": steps[0]["time"] - began,
        "prompt": prompt - began,
    }, [event["loss"] for event in steps]


def follow(process: subprocess.Popen[bytes]) -> tuple[dict[int, tuple[str, float]], float]:
    """Wait for a command and all that it leaves behind; returns each process's kind and CPU seconds, and when the command ended."""
    seconds: dict[int, tuple[str, float]] = {}
    ended = 0.0
    while True:
        for one in psutil.Process().children(recursive=True):
            try:
                times, words = one.cpu_times(), " ".join([one.name(), *one.cmdline()])
            except psutil.Error:
                continue
            kind = next((kind for kind, word in KINDS.items() if word in words), seconds.get(one.pid, ("", 0.0))[0])
            seconds[one.pid] = (kind, times.user + times.system)
        if not ended and process.poll() is not None:
            ended = time.time()
        if ended:
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return seconds, ended
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
