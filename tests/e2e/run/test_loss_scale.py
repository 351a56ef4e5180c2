"""--precision 16-mixed: a run finds its loss scale, learns, and keeps the scale over a stop."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]


def test_the_weights_move_once_the_scale_fits(half_precision: Any) -> None:
    steps = [event for event in half_precision.run.events() if event["event"] == "step"]
    assert [step["step"] for step in steps] == list(range(1, 29))
    left_out = [step["step"] for step in steps if step["grad_norm"] is None]
    assert left_out == list(range(1, len(left_out) + 1))  # 2**32 is too much, and so are some halves of it
    assert 5 < len(left_out) < 22
    assert all(0.1 < step["grad_norm"] < 100 for step in steps[len(left_out) :])  # not divided by 2**32
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5


def test_a_resumed_run_keeps_its_scale(half_precision: Any) -> None:
    assert half_precision.code == 143
    told = [event["text"] for event in half_precision.run.events() if event["event"] == "note"]
    powers = [int(text.split()[2].removeprefix("2^").rstrip(":")) for text in told if text.startswith("loss scale")]
    assert powers[0] == 32
    assert 0 < powers[1] < 28
