"""`runs average`: which checkpoints, which weights, what is refused. The mean itself: tests/e2e/run/test_decay.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_workflow.run_dir.checkpoints import Checkpoint, list_checkpoints, write_manifest
from nemo_workflow.runs.average import choose, weights_of
from nemo_workflow.utils.errors import Refusal


@pytest.fixture
def there(tmp_path: Path) -> list[Checkpoint]:
    for step in (10, 20, 30, 40):
        (tmp_path / f"step_{step:08d}").mkdir()
        if step != 30:
            write_manifest(tmp_path / f"step_{step:08d}")
    return list_checkpoints(tmp_path)


def test_the_last_whole_ones_or_those_named(there: list[Checkpoint]) -> None:
    assert [checkpoint.step for checkpoint in choose(there, 2, None)] == [20, 40]
    assert [checkpoint.step for checkpoint in choose(there, 5, "40, 10,40")] == [10, 40]


@pytest.mark.parametrize(
    ("last", "steps", "said"),
    [
        (
            5,
            None,
            "--last 5: the run has 3 whole checkpoints .*; average --last 3, or train with a larger --keep-checkpoints",
        ),
        (1, None, "--last 1: a mean needs two"),
        (-1, None, "--last -1: a mean needs two"),
        (5, "10,15", "--steps 10,15: no checkpoint of step 15; there are: 10, 20"),
        (5, "10,x", "no checkpoint of step x"),
        (5, "10", "--steps 10: a mean needs two"),
        (5, "10,30", "step_00000030: its manifest.json is missing; leave it out"),
    ],
)
def test_what_cannot_be_averaged_is_refused(there: list[Checkpoint], last: int, steps: str | None, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        choose(there, last, steps)


def test_weights_of_a_decay_weigh_each_way_as_the_decay_would() -> None:
    assert weights_of(4, None) == [0.25] * 4
    assert weights_of(3, "linear") == pytest.approx([0.25, 0.5, 0.25])
    for style in ("linear", "cosine", "minus_sqrt", "exponential"):
        shares = weights_of(6, style)
        assert sum(shares) == pytest.approx(1) and min(shares) > 0
    # a run on a straight line of steps of size 1 that decays linearly comes half as far
    assert sum(at * share for at, share in enumerate(weights_of(11, "linear"))) == pytest.approx(5)
