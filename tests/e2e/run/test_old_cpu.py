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
    # by the first start and by the one after its rank was killed
    assert unlike_cpus.output.count(SAID) == 2
    assert (
        "products of bf16 (" in unlike_cpus.output and "fp16" not in unlike_cpus.output
    )  # of the run's precision alone
    assert [[log.count(SAID) for log in logs] for logs in unlike_cpus.logs] == [[1, 1], [1, 1]]


def test_the_losses_are_those_of_bf16(unlike_cpus: Any, two_ranks: Any) -> None:
    for name, count in (("steps", 9), ("validations", 2)):
        old, new = ([row[1] for row in seen.history[name]] for seen in (unlike_cpus, two_ranks))
        assert len(old) == count and old == pytest.approx(new[:count], abs=0.002), name
