"""Parts of tensors: cut in the order of memory, and what two of them share."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest

from nemo_workflow.conversion.boxes import Box


@pytest.mark.parametrize("most", [1, 2, 7, 12, 35, 10_000])
@pytest.mark.parametrize("shape", [(), (1,), (13,), (1, 7, 5), (3, 1, 4, 2), (2, 9)])
def test_parts_are_small_and_follow_each_other_in_memory(shape: tuple[int, ...], most: int) -> None:
    whole = numpy.arange(math.prod(shape)).reshape(shape)
    box = Box(tuple(range(len(shape))), shape)  # a piece of something larger
    parts = list(box.cut(most))
    assert all(math.prod(part.shape) <= max(1, most) for part in parts)
    laid = [whole[part.within(box)].ravel() for part in parts]
    assert numpy.concatenate(laid).tolist() == whole.ravel().tolist()


def test_what_two_parts_share() -> None:
    grid = numpy.zeros((4, 6), int)
    boxes = [Box((0, 0), (2, 6)), Box((1, 2), (3, 3)), Box((3, 0), (1, 2)), Box((0, 5), (4, 1))]
    for one, other in itertools.product(boxes, boxes):
        grid[:] = 0
        for box in (one, other):
            grid[box.within(Box((0, 0), grid.shape))] += 1
        shared = one.common(other)
        both = (grid == 2).sum()
        assert (shared is None) == (both == 0)
        if shared is not None:
            assert (grid[shared.within(Box((0, 0), grid.shape))] == 2).all() and math.prod(shared.shape) == both
