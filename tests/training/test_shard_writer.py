"""What a checkpoint's writers do beside writing: the real files' notes; whole saves are in tests/backends/gather_ranks.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.run_dir.checkpoints import HASH, describe_files, describe_written, files_of, note_hash
from nemo_workflow.training import shard_writer
from tests.waiting import LIMIT, until

WRITERS = """
import os, queue, sys
from nemo_workflow.training import shard_writer
shard_writer.install()
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
told = queue.SimpleQueue()
buckets = [(os.path.join(sys.argv[1], name), name, ([], [])) for name in sys.argv[2:]]
FileSystemWriterAsync.write_preloaded_data_multiproc([], False, 0, buckets, told)
print(repr(told.get()))
"""


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


@pytest.mark.e2e
def test_a_writer_that_is_killed_fails_the_save_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """megatron-core's own writers; one of them stands still, since its file is a pipe that nobody reads."""
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", WRITERS, tmp_path]
    done = subprocess.run([*command, "a", "b"], capture_output=True, text=True, check=True)
    assert done.stdout == "{0: [], 1: []}\n" and (tmp_path / "a").exists() and (tmp_path / "b").exists()
    saving = subprocess.Popen([*command, "a", "pipe"], stdout=subprocess.PIPE, text=True)
    children = Path(f"/proc/{saving.pid}/task/{saving.pid}/children")

    def standing() -> list[int]:
        """Those that wait for the pipe's other side, as the kernel calls it."""
        return [int(pid) for pid in children.read_text().split() if "partner" in Path(f"/proc/{pid}/wchan").read_text()]

    until(lambda: bool(standing()))
    os.kill(standing()[0], 9)
    said, _ = saving.communicate(timeout=LIMIT)
    assert f"the process that wrote {tmp_path}/pipe was ended by SIGKILL" in said and said.startswith("RuntimeError(")
