"""Many pairs in one folder: renames half done are looked for once, and seen though they begin later."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_workflow.data import indexed_dataset
from nemo_workflow.data.indexed_dataset import COMMIT_NAME, RUN_DIR_PREFIX, read_pair
from nemo_workflow.utils.errors import Refusal
from tests.places import write_pair


def test_a_folder_of_many_pairs_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 15 seconds to plan with 3,000 pairs, and four times as long with twice as many."""
    prefixes = [write_pair(tmp_path / f"s{number}", [3]) for number in range(20)]
    listed: list[Path] = []

    class Counted(type(tmp_path)):  # type: ignore[misc]
        def glob(self, pattern: str) -> object:
            listed.append(self)
            return super().glob(pattern)

    monkeypatch.setattr(indexed_dataset, "Path", Counted)
    assert [read_pair(prefix).tokens for prefix in prefixes] == [3] * 20
    assert listed == [tmp_path]


def test_renames_that_begin_later_are_seen(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "s", [3])
    read_pair(pair)
    run_dir = tmp_path / f"{RUN_DIR_PREFIX}x"
    run_dir.mkdir()
    read_pair(pair)
    (run_dir / COMMIT_NAME).touch()
    with pytest.raises(Refusal, match="killed while it renamed its files; run it again first"):
        read_pair(pair)
