"""A training that the tests fork from a process with NeMo is, bit for bit, one that was started from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.run.harness import samples

pytestmark = pytest.mark.e2e


def test_losses_samples_weights_and_files_are_the_same(one_rank: Any, one_rank_forked: Any) -> None:
    assert one_rank_forked.history == one_rank.history
    assert samples(one_rank_forked.record) == samples(one_rank.record)
    trees = [
        {
            str(path.relative_to(seen.run.folder))
            for path in seen.run.folder.rglob("*")
            if named_alike(path, seen.run.folder)
        }
        for seen in (one_rank, one_rank_forked)
    ]
    assert trees[0] == trees[1]
    weights = [path for path in trees[0] if path.endswith(".distcp")]
    assert weights
    for name in weights:
        assert (one_rank.run.folder / name).read_bytes() == (one_rank_forked.run.folder / name).read_bytes(), name


def named_alike(path: Path, folder: Path) -> bool:
    """The names in an attempt's folder hold times and process numbers."""
    return path.is_file() and path.relative_to(folder).parts[0] != "attempts"
