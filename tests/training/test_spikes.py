"""The loss that jumps, and --on-nan's values."""

from __future__ import annotations

import random

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.training.spikes import LEAST, SpikeWarner, steps_to_skip
from nemo_workflow.utils.errors import Refusal

NEEDED = ("--hf-model-id", "x", "--dataset-dir", "y")


def falling(steps: int) -> list[float]:
    noise = random.Random(1)
    return [2 + 6 * 0.99**step + noise.gauss(0, 0.05) for step in range(steps)]


def test_a_falling_noisy_loss_is_no_spike() -> None:
    warner = SpikeWarner()
    assert [warner.usual(loss) for loss in falling(500)] == [None] * 500


@pytest.mark.parametrize("at", [LEAST, 100, 400])
def test_a_jump_is_told_once_with_what_is_usual(at: int) -> None:
    losses = falling(500)
    losses[at] *= 1.8
    warner = SpikeWarner()
    told = {step: usual for step, loss in enumerate(losses) if (usual := warner.usual(loss)) is not None}
    assert list(told) == [at]
    assert told[at] == pytest.approx(losses[at] / 1.8, rel=0.2)


def test_no_warning_in_the_first_steps_or_without_a_loss() -> None:
    warner = SpikeWarner()
    assert [warner.usual(loss) for loss in (1.0, 9.0, None, 1.0)] == [None] * 4


@pytest.mark.parametrize(
    ("words", "steps"),
    [((), 0), (("--on-nan", "stop"), 0), (("--on-nan", "skip", "3"), 3), (("--on-nan", "skip 12"), 12)],
)
def test_on_nan(words: tuple[str, ...], steps: int) -> None:
    assert steps_to_skip(command_line.parse([*NEEDED, *words]).on_nan) == steps


@pytest.mark.parametrize("words", [("skip",), ("skip", "0"), ("skip", "-1"), ("halt",), ("stop", "3"), ("skip", "x")])
def test_on_nan_refuses(words: tuple[str, ...]) -> None:
    with pytest.raises(Refusal, match="on-nan"):
        command_line.parse([*NEEDED, "--on-nan", *words])
