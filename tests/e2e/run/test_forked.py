"""A training that the tests fork from a process with NeMo is, bit for bit, one that was started from nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.run.harness import samples

pytestmark = pytest.mark.e2e


def test_losses_samples_weights_and_files_are_the_same(one_rank: Any, one_rank_forked: Any) -> None:
    assert one_rank_forked.history == one_rank.history
    assert samples(one_rank_forked.record) == samples(one_rank.record)
    assert one_rank_forked.run.left_in_temporary() == one_rank.run.left_in_temporary() == []
    first, second = (files(seen.run.folder) for seen in (one_rank, one_rank_forked))
    assert first.keys() == second.keys()
    weights = [name for name in first if name.endswith(".distcp")]
    assert weights
    for name in weights:
        assert first[name].read_bytes() == second[name].read_bytes(), name


def files(folder: Path) -> dict[str, Path]:
    """By their names without what is each start's own: times, numbers of processes, chance names."""
    found = [path for path in folder.rglob("*") if path.is_file() and "attempts" not in path.parts]
    return {re.sub(r"[0-9a-f-]{36}|tfevents.*", "*", str(path.relative_to(folder))): path for path in found}
