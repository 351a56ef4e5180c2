"""What a checkpoint's writers do beside writing: the real files' notes; megatron-core's own writer is in tests/backends/gather_ranks.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemo_workflow.run_dir.checkpoints import HASH, describe_files, describe_written, files_of, note_hash
from nemo_workflow.training import shard_writer


def shard(folder: Path, name: str = "weights/__0_0.distcp", content: bytes = b"numbers") -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return name


def test_a_note_takes_the_place_of_reading_and_goes(tmp_path: Path) -> None:
    name = shard(tmp_path)
    expected = describe_files(tmp_path, [name])
    note_hash(tmp_path / name)
    (tmp_path / name).write_bytes(b"changed")  # nobody reads it again
    assert describe_written(tmp_path, [name]) == expected
    assert [file.name for file in (tmp_path / "weights").iterdir()] == ["__0_0.distcp"]


def test_a_file_without_a_note_is_read(tmp_path: Path) -> None:
    first, second = shard(tmp_path), shard(tmp_path, "weights/__0_1.distcp")
    note_hash(tmp_path / first)
    written = describe_written(tmp_path, [first, second])
    assert written == describe_files(tmp_path, [first, second]) and written[first][HASH] == written[second][HASH]


def test_a_note_that_nfs_still_shows_is_no_file_of_the_checkpoint(tmp_path: Path) -> None:
    name = shard(tmp_path)
    note_hash(tmp_path / name)
    assert files_of(tmp_path) == [name]


@pytest.mark.parametrize(("cores", "ranks", "writers"), [(2, 1, 2), (16, 1, 8), (16, 4, 4), (32, 8, 4), (4, 8, 2)])
def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, writers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert shard_writer.processes(ranks) == writers
