"""megatron-core's saves beside numpy 2, of which only the missing name is had here: 1.26 is what is installed."""

from __future__ import annotations

import types
from typing import Any

import pytest

from nemo_workflow.backends import numpy_two, patching
from tests.later import later

numpy, torch = later("numpy"), later("torch")


def size() -> int:
    """Bytes that megatron-core finds a shard of 4 x 6 numbers of two bytes to have."""
    from megatron.core.dist_checkpointing import exchange_utils

    shard: Any = types.SimpleNamespace(flattened_range=None, local_shape=(4, 6), dtype=torch.bfloat16)
    return int(exchange_utils._shard_size(shard))


def test_numpy_two_gets_the_name_that_saves_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "version", lambda library: "2.4.6")
    monkeypatch.delattr(numpy, "product")
    with pytest.raises(AttributeError, match="product"):
        size()
    numpy_two.install()
    assert size() == 48
    assert numpy.product is numpy.prod


def test_numpy_one_stays_as_it_is() -> None:
    before = numpy.product
    numpy_two.install()
    assert numpy.product is before is not numpy.prod
