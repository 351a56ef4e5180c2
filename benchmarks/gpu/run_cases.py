#!/usr/bin/env python3
"""Run training cases one after another on one GPU and print a table.

    python benchmarks/gpu/run_cases.py CASES.json [--only PATTERN] [--out FOLDER]

CASES.json holds a list of objects: `name`, `flags` (those of pretrain_llm.py) and optionally `set` (recipe fields laid
over the recipe), `stock` (nothing of ours beyond the flags), `profile`, `save`, `again` and `forget` (the run of that case goes on, its checkpoint of step `forget` gone), `kind` ("train", "stock" for NeMo's
recipe without us, "peer" for transformers with torch.compile). {data} and {tokenizer} in flags come from --data.
The imports of the next cases happen while one trains, so that the GPU hardly waits; the steps of two never overlap.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
AHEAD = 5  # processes that import while another trains
SCRIPTS = {"train": "case.py", "stock": "stock.py", "peer": "peer.py", "check": "check_kernels.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", default="*")
    parser.add_argument("--data", type=Path, default=Path("/tmp/data"), help="folder with dataset/ and tokenizer/")
    parser.add_argument("--out", type=Path, default=Path("gpu_cases"))
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further case is started")
    options = parser.parse_args()
    began = time.monotonic()
    cases = [case for case in json.loads(options.cases.read_text()) if fnmatch.fnmatch(case["name"], options.only)]
    waiting = [*cases]
    loading: list[tuple[dict[str, Any], subprocess.Popen[bytes]]] = []
    results = []
    while waiting or loading:
        while waiting and len(loading) < AHEAD:
            case = waiting.pop(0)
            loading.append((case, start(case, options)))
        case, process = loading.pop(0)
        if time.monotonic() - began > options.limit:
            process.kill()
            process.wait()
            results.append({"name": case["name"], "error": "not run: out of time"})
            continue
        results.append(finish(case, process, options))
        shown = {name: value for name, value in results[-1].items() if not isinstance(value, dict | list)}
        print(json.dumps(shown), flush=True)
        if case.get("first") and "error" in results[-1]:
            print("the first case failed: nothing else is run", flush=True)
            options.limit = 0.0
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    print(table(results))


def start(case: dict[str, Any], options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The case's process: imports, then waits for a line on its standard input."""
    folder = (options.out / case["name"]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ, "PYTHONUNBUFFERED": "1", **case.get("env", {})}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        environment[name] = value
    environment["MASTER_PORT"] = str(29500 + abs(hash(case["name"])) % 2000)
    log = (folder / "log").open("wb")
    words = [sys.executable, str(HERE / SCRIPTS[case.get("kind", "train")]), json.dumps(case), str(folder)]
    words.append(str(options.data))
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)


def finish(case: dict[str, Any], process: subprocess.Popen[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Let the case train and return what it measured."""
    folder = options.out / case["name"]
    began = time.monotonic()
    try:
        process.communicate(b"go\n", timeout=case.get("timeout", 240))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    seconds = round(time.monotonic() - began, 1)
    if (folder / "result.json").exists():
        return {"name": case["name"], **json.loads((folder / "result.json").read_text()), "seconds": seconds}
    text = (folder / "log").read_text(errors="replace")
    for rank_log in folder.rglob("rank0.error"):
        text += rank_log.read_text(errors="replace")
    return {"name": case["name"], "error": " | ".join(text.strip().splitlines()[-3:])[-600:], "seconds": seconds}


def table(results: list[dict[str, Any]]) -> str:
    """A line a case."""
    lines = [
        f"{'case':30} {'tok/s':>8} {'outside':>8} {'MFU %':>6} {'alloc GiB':>9} {'reserved':>8} {'loss':>8} {'s':>6}"
    ]
    for result in results:
        if "error" in result:
            lines.append(f"{result['name']:30} {result['error'][-150:]}")
            continue
        values = (result.get(name) or 0 for name in ("tok_s", "outside_tok_s", "mfu", "alloc", "reserved", "loss"))
        tok_s, outside, mfu, alloc, reserved, loss = values
        lines.append(
            f"{result['name']:30} {tok_s:8.0f} {outside:8.0f} {mfu * 100:6.2f} {alloc:9.2f} {reserved:8.2f}"
            f" {loss:8.4f} {result.get('seconds', 0):6.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
