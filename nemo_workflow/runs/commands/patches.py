"""`python -m nemo_workflow.patches`: what this project replaces inside torch, NeMo and the other libraries, and why."""

from __future__ import annotations

import json
import textwrap

from nemo_workflow.backends.patching import CONVERSION, CPU, GPU, LAUNCHER, RANK
from nemo_workflow.backends.registry import PATCHES, described
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import run_command

HEADINGS = {
    CPU: "On a CPU",
    GPU: "On a GPU",
    RANK: "In every rank",
    LAUNCHER: "In the launcher",
    CONVERSION: "In a conversion",
}


def main() -> int:
    """Print the registry, by where a patch applies."""
    parser = Parser(prog="python -m nemo_workflow.patches", description=__doc__.partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="print JSON: a list of objects")
    rows = [described(patch) for patch in PATCHES]
    if parser.parse_args().json:
        print(json.dumps(rows, indent=2))
        return 0
    for where, heading in HEADINGS.items():
        print(f"\n{heading}:")
        for row in (row for row in rows if row["where"] == where):
            there = row["installed"] or "not installed"
            other = "" if row["version_fits"] else f", another version: {row['if_changed']}"
            print(f"  {row['name']}  {row['library']} {row['versions']} ({there}{other})  {', '.join(row['targets'])}")
            print(textwrap.fill(row["reason"], 116, initial_indent="    ", subsequent_indent="    "))
    return 0


if __name__ == "__main__":
    run_command(main)
