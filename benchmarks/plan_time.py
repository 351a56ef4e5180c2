#!/usr/bin/env python3
"""Is the layout that the plan calls fastest the fastest? The suggestion's best, run beside each other on cards.

    python benchmarks/plan_time.py cases CASES.json --gpus 4 --gpu h200      the cases: any machine, a second
    python benchmarks/gpu/run_cases.py CASES.json --cards 0,1,2,3 --data DATA --out OUT      on the machine with the GPUs
    python benchmarks/plan_time.py table CASES.json OUT/results.jsonl        planned against seen, as Markdown

The cases of what is run first come first: an earlier end costs the rest only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
MODELS = {"llama31_8b": 4, "llama32_1b": 8, "llama32_3b": 4, "qwen25_1p5b": 16}  # sequences a GPU and step
STEPS, WARM_UP = 4, 1
DATA = ["--hf-model-id", "{tokenizer}", "--dataset-dir", "{data}", "--seed", "1234"]


def cases(gpus: list[int], gpu: str, count: int, models: list[str]) -> list[dict[str, Any]]:
    """The `count` best of each model on each number of GPUs, all models' best first."""
    found = []
    for ranks in gpus:
        for model in models:
            for place, row in enumerate(suggested(model, ranks, gpu, count, MODELS[model] * ranks), 1):
                found.append(case(model, ranks, MODELS[model] * ranks, place, row))
    return sorted(found, key=lambda one: one["place"])


def suggested(model: str, ranks: int, gpu: str, count: int, batch: int) -> list[dict[str, Any]]:
    words = ["-M", model, "--suggest", str(count), "-G", str(ranks), "-gbs", str(batch), "--gpu", gpu]
    command = [sys.executable, "pretrain_llm.py", *words, "--dry-run", "json"]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [row for row in json.loads(answer)["rows"] if row.get("flags")]


def case(model: str, ranks: int, batch: int, place: int, row: dict[str, Any]) -> dict[str, Any]:
    """As run_cases.py takes it; `planned` and `place` are for the table."""
    name = f"{model}_{ranks}_{place}"
    flags = ["--model-name", model, *DATA, "-E", name, "-gbs", str(batch), "--max-steps", str(STEPS)]
    flags += ["--val-check-interval", str(STEPS)]
    # the first as a user asks for it; the others' words without -N and -G, which run_cases.py sets
    flags += ["--layout", "auto"] if place == 1 else row["words"][4:]
    seconds = STEPS * row["step_seconds"] + 20
    about = {
        "planned": row["tokens_per_second_per_gpu"],
        "warm_up": WARM_UP,
        "place": place,
        "model": model,
        "words": row["words"][4:],
    }
    return {"name": name, "flags": flags, "ranks": ranks, "seconds": seconds, "timeout": 3 * seconds + 60, **about}


def table(planned: list[dict[str, Any]], results: list[dict[str, Any]]) -> str:
    """A row a case, and for each model and number of GPUs what the first choice reached of the best."""
    seen = {result["name"]: result for result in results}
    lines = [
        "| Model | GPUs | Place | Layout | Planned tokens/s/GPU | Seen | Difference | GiB seen |",
        "|" + "---|" * 8,
    ]
    groups: dict[tuple[str, int], dict[int, float]] = {}
    for one in sorted(planned, key=lambda one: (one["ranks"], one["model"], one["place"])):
        result = seen.get(one["name"])
        start = (
            f"| {one['model']} | {one['ranks']} | {one['place']} | `{' '.join(one['words'])}` | {one['planned']:,.0f}"
        )
        if result is None or "error" in result:
            said = "not run" if result is None else result["error"].splitlines()[-1][-80:]
            lines.append(f"{start} | {said} | | |")
            continue
        rate = result["tok_s"] / one["ranks"]
        groups.setdefault((one["model"], one["ranks"]), {})[one["place"]] = rate
        lines.append(f"{start} | {rate:,.0f} | {one['planned'] / rate - 1:+.1%} | {result.get('alloc', 0):.1f} |")
    lines += ["", "| Model | GPUs | First choice of the best run | Layouts run |", "|---|---|---|---|"]
    for (model, ranks), rates in groups.items():
        if 1 in rates:
            lines.append(f"| {model} | {ranks} | {rates[1] / max(rates.values()):.1%} | {len(rates)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    make = parts.add_parser("cases", help="write the cases for run_cases.py")
    make.add_argument("file", type=Path)
    make.add_argument("--gpus", default="1", help="numbers of GPUs, separated by commas")
    make.add_argument("--gpu", default="h100", help="as pretrain_llm.py takes it")
    make.add_argument("--count", type=int, default=5, help="layouts of each model")
    make.add_argument("--models", default=",".join(MODELS))
    show = parts.add_parser("table", help="planned against seen")
    show.add_argument("cases", type=Path)
    show.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    if options.part == "cases":
        gpus = [int(word) for word in options.gpus.split(",")]
        found = cases(gpus, options.gpu, options.count, options.models.split(","))
        options.file.write_text(json.dumps(found, indent=1))
        return
    lines = [line for path in options.results for line in path.read_text().splitlines()]
    print(table(json.loads(options.cases.read_text()), [json.loads(line) for line in lines if line.strip()]))


if __name__ == "__main__":
    main()
