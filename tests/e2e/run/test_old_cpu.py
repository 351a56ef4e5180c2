"""A run on a CPU without instructions for bf16: the products go through fp32, on every rank, and the losses stay."""

from __future__ import annotations

import platform
from typing import Any

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="only an x86-64 CPU can be told to be an old one"),
]
SAID = "they are computed in fp32 and rounded"


def test_every_rank_does_as_rank_0_found(unlike_cpus: Any) -> None:
    assert unlike_cpus.output.count(SAID) == 1
    assert [log.count(SAID) for log in unlike_cpus.logs] == [1, 1]


def test_the_losses_are_those_of_bf16(unlike_cpus: Any, two_ranks: Any) -> None:
    for name, column in (("steps", 1), ("validations", 1)):
        old, new = ([row[column] for row in seen.history[name]] for seen in (unlike_cpus, two_ranks))
        assert old == pytest.approx(new, abs=0.002), name
