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
    lines += [row(entry) for entry in entries.values()]
    text = PAGE.read_text().split(MARK)[0]
    PAGE.write_text(text + MARK + "\n" + "\n".join(lines) + "\n")
    print(f"{PAGE}: {len(entries)} rows")


if __name__ == "__main__":
    main()
