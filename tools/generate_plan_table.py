"""The README's table of models and GPUs, from the plan: `python -m tools.generate_plan_table`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from nemo_workflow import REPOSITORY
from nemo_workflow.config import command_line
from nemo_workflow.config.memory import GIB
from nemo_workflow.config.resolve import suggestion
from nemo_workflow.utils import gpus
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import human_time
from nemo_workflow.utils.errors import run_command
from nemo_workflow.utils.files import written_aside

README = REPOSITORY / "README.md"
BEGIN, END = "<!-- plan: begin -->\n", "<!-- plan: end -->\n"
TOKENS = 10e9
# recipe, GPU, nodes, GPUs per node
CASES = (
    ("llama_125m", "4090", 1, 1),
    ("llama_350m", "4090", 1, 1),
    ("qwen3_600m", "h100", 1, 1),
    ("llama32_1b", "h100", 1, 1),
    ("llama32_3b", "h100", 1, 8),
    ("llama31_8b", "h100", 1, 8),
    ("qwen3_14b", "h100", 4, 8),
    ("llama31_70b", "h100", 16, 8),
)


@dataclass(frozen=True)
class Planned:
    """One row. `gib` and `rate` are of one GPU, `rate` in tokens per second."""

    recipe: str
    gpus: int
    card: str
    gib: float
    rate: float

    @property
    def seconds(self) -> float:
        return TOKENS / (self.rate * self.gpus)


def planned() -> Iterator[Planned]:
    """The fastest layout that fits, by the plan, of each case."""
    for recipe, card, nodes, per_node in CASES:
        words = ["-M", recipe, "--gpu", card, "-N", str(nodes), "-G", str(per_node), "-gbs", "512"]
        found = json.loads(suggestion(command_line.parse([*words, "--suggest", "1", "--dry-run", "json"])))["rows"][0]
        name = next(gpu.driver_name for gpu in gpus.TABLE if gpu.key == card)
        yield Planned(recipe, nodes * per_node, name, found["bytes"] / GIB, found["tokens_per_second_per_gpu"])


def markdown() -> str:
    rows = ["| Recipe | GPUs | GiB per GPU | tokens/s | 10 billion tokens |", "|---|---|---|---|---|"]
    rows += [
        f"| `{row.recipe}` | {row.gpus} x {row.card} | {row.gib:.0f} | {row.rate * row.gpus:,.0f} | {human_time(row.seconds)} |"
        for row in planned()
    ]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the table between its two marks in README.md."""
    Parser(
        prog="python -m tools.generate_plan_table",
        description="Write the README's table of models, GPUs, memory and time from the plan.",
    ).parse_args()
    head, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    with written_aside(README) as stream:
        stream.write(f"{head}{BEGIN}\n{markdown()}\n{END}{tail}")


if __name__ == "__main__":
    run_command(main)
