"""Put the rows that the conversion tests noted into docs/conversion.md.

CONVERSION_TABLE=rows.jsonl python -m pytest -m e2e tests/conversion
python benchmarks/conversion_table.py rows.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conversion.md"
MARK = "<!-- table -->"


def row(entry: dict[str, Any]) -> str:
    logits = entry["logits"]
    worst = max(one["largest_difference"] / one["standard_deviation"] for one in logits)
    agreement = min(one["argmax_agreement"] for one in logits)
    return (
        f"| {entry['model']} | {entry['model_class']} | {entry['config_class']} | {entry['tensors']} | {worst:.1e} | "
        f"{agreement:.0%} of {logits[0]['tokens']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("rows", type=Path, help="file that the tests noted their rows in")
    text = parser.parse_args().rows.read_text()
    entries = {entry["model"]: entry for entry in map(json.loads, text.splitlines())}
    lines = [
        "| Model | NeMo model | NeMo config | Tensors | Largest difference | Argmax agrees |",
        "|---|---|---|---|---|---|",
    ]
    text, _, table = PAGE.read_text().partition(MARK)
    kept = {line.split("|")[1].strip(): line for line in table.splitlines()[3:] if line.startswith("|")}
    rows = kept | {model: row(entry) for model, entry in entries.items()}  # those of models that weren't run stay
    PAGE.write_text(text + MARK + "\n" + "\n".join([*lines, *rows.values()]) + "\n")
    print(f"{PAGE}: {len(entries)} rows")


if __name__ == "__main__":
    main()
