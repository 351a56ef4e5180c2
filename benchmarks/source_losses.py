#!/usr/bin/env python3
"""What the training loss of each source costs: pairs of runs that differ in nothing else, one after the other.

    python benchmarks/source_losses.py FOLDER                     llama_tiny on a CPU, the data made on the spot
    python benchmarks/source_losses.py FOLDER --gpu --data DATA   llama32_1b on a GPU; DATA as benchmarks/gpu/run_cases.py takes it

Every step is logged, so that the ranks' sums are added at each: the dearest way. Compared are CPU seconds a step on a CPU, which other
processes disturb less than the clock, and tokens per second on a GPU, read outside.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import multi_gpu_models  # noqa: E402

NAMES, COUNTED = ("with", "without"), "counted"
ON_A_CPU = "--model-name llama_tiny --seq-length 256 -gbs 8 -mbs 2"
ON_A_GPU = "--model-name llama32_1b --seq-length 2048 -gbs 8 -mbs 4"


def cases(pairs: int, steps: int, gpu: bool) -> list[dict[str, Any]]:
    """The runs, the order within a pair turned round each time, and one in which the losses' own code is timed."""
    flags = [*(ON_A_GPU if gpu else ON_A_CPU).split(), "--hf-model-id", "{tokenizer}", "--dataset-dir", "{two}"]
    flags += ["-E", "run", "--max-steps", str(steps), "--val-check-interval", str(steps), "--log-every", "1"]
    case = {"flags": flags, "warm_up": 5, "timeout": 600} | ({} if gpu else {"accelerator": "cpu"})
    found = [
        {"name": f"{name}_{number}", **case, "no_source_losses": name == "without"}
        for number in range(pairs)
        for name in NAMES[:: 1 if number % 2 else -1]
    ]
    return [*found, {"name": COUNTED, **case, "count_source_losses": True}]


def two_sources(data: Path) -> None:
    """DATA/two: the pair of DATA/dataset under two names."""
    (prefix,) = [path.with_suffix("") for path in (data / "dataset").rglob("*.idx")]
    (data / "two").mkdir(exist_ok=True)
    for name in ("one", "other"):
        for ending in (".bin", ".idx"):
            shutil.copyfile(f"{prefix}{ending}", data / "two" / f"{name}_text_document{ending}")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the runs are written")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--data", type=Path, help="folder with tokenizer/ and dataset/; unset: made in FOLDER")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    data = (options.data or options.folder / "data").absolute()
    if options.data is None:
        multi_gpu_models.prepare(data, models=())
    two_sources(data)
    file = options.folder / "cases.json"
    options.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(cases(options.pairs, options.steps, options.gpu)))
    words = [
        sys.executable,
        "benchmarks/gpu/run_cases.py",
        file.absolute(),
        "--data",
        data,
        "--out",
        options.folder.absolute(),
    ]
    words += ["--ahead", "6" if options.gpu else "1"]
    subprocess.run([str(word) for word in words], cwd=REPOSITORY, check=True)
    found = {one["name"]: one for one in json.loads((options.folder / "results.json").read_text())}
    if failed := [name for name, one in found.items() if "error" in one]:
        sys.exit(f"{', '.join(failed)}: no result; their logs are in {options.folder}")
    print(table(found, options.pairs, "outside_tok_s" if options.gpu else "cpu_seconds_a_step"))


def table(found: dict[str, dict[str, Any]], pairs: int, what: str) -> str:
    """A line a pair and the median of their differences; and the share of a step's CPU time inside the losses' own code."""
    lines, more = [f"{what:>20} {'with':>12} {'without':>12} {'more':>8}"], []
    for number in range(pairs):
        ours, bare = (found[f"{name}_{number}"][what] for name in NAMES)
        more.append((bare / ours if what.endswith("tok_s") else ours / bare) - 1)
        lines.append(f"{number:20} {ours:12.6g} {bare:12.6g} {more[-1]:+8.2%}")
    lines.append(f"{'median':>20} {'':12} {'':12} {statistics.median(more):+8.2%}")
    inside, whole = (found[COUNTED][name] for name in ("counted_seconds_a_step", "cpu_seconds_a_step"))
    return "\n".join(
        [*lines, f"CPU seconds a step inside the losses' own code: {inside:.6f} of {whole:.4f}, {inside / whole:.3%}"]
    )


if __name__ == "__main__":
    main()
