"""The README's table of models and GPUs is the plan's."""

from __future__ import annotations

import re

import pytest

from tools import generate_plan_table
from tools.generate_plan_table import BEGIN, END, README


def test_the_readme_has_what_the_plan_says() -> None:
    """Within a tenth: a better plan changes a figure a little; `make generate` writes it again."""
    text = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) x [^|]+ \| (\d+) \| ([\d,]+) \| ", text, re.MULTILINE)
    planned = list(generate_plan_table.planned())
    assert [row[0] for row in rows] == [plan.recipe for plan in planned]
    for (_, gpus, gib, rate), plan in zip(rows, planned, strict=True):
        assert int(gpus) == plan.gpus
        assert float(gib) == pytest.approx(plan.gib, rel=0.1, abs=1)
        assert float(rate.replace(",", "")) == pytest.approx(plan.rate * plan.gpus, rel=0.1)
