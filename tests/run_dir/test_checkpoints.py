"""What counts as a whole checkpoint, what is removed and what never is."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_workflow.run_dir import checkpoints
from nemo_workflow.run_dir.checkpoints import (
    Checkpoint,
    clean_leftovers,
    damage_of,
    list_checkpoints,
    newest_whole,
    prune,
    set_aside,
    write_manifest,
)
from nemo_workflow.training import resume
from nemo_workflow.utils.errors import Failure
from tests.e2e.run.harness import flip_a_byte


def make(folder: Path, step: int) -> Checkpoint:
    path = folder / f"step_{step:08d}"
    (path / "weights").mkdir(parents=True)
    (path / "weights" / "__0_0.distcp").write_bytes(bytes(range(256)) * 40)
    (path / "weights" / "common.pt").write_bytes(b"common")
    (path / "context").mkdir()
    (path / "context" / "io.json").write_text("{}")
    write_manifest(path, step=step)
    return Checkpoint(path, step)


@pytest.fixture
def three(tmp_path: Path) -> list[Checkpoint]:
    return [make(tmp_path / "checkpoints", step) for step in (4, 8, 12)]


def test_the_newest_whole_one_is_taken(three: list[Checkpoint]) -> None:
    assert newest_whole(three[0].path.parent) == (three[2], [])


@pytest.mark.parametrize("name", ["weights/__0_0.distcp", "weights/common.pt", "context/io.json", "manifest.json"])
def test_a_missing_file_is_named_and_the_one_before_is_taken(three: list[Checkpoint], name: str) -> None:
    (three[2].path / name).unlink()
    newest, told = newest_whole(three[0].path.parent)
    assert newest == three[1]
    assert len(told) == 1 and "step_00000012" in told[0] and name in told[0]


def test_a_truncated_file_is_named(three: list[Checkpoint]) -> None:
    file = three[2].path / "weights" / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1])
    newest, told = newest_whole(three[0].path.parent)
    assert newest == three[1]
    assert "__0_0.distcp has 10239 bytes instead of 10240" in told[0]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 3}', '{"files": {"weights/common.pt": {}}}'])
def test_a_damaged_manifest(three: list[Checkpoint], content: str) -> None:
    (three[2].path / "manifest.json").write_text(content)
    newest, told = newest_whole(three[0].path.parent)
    assert newest == three[1]
    assert "manifest.json is damaged" in told[0]


@pytest.mark.parametrize("at", [0.0, 0.5, 0.9999])
def test_a_flipped_bit_shows_in_the_hash_only(three: list[Checkpoint], at: float) -> None:
    assert damage_of(three[2]) is None
    flip_a_byte(three[2].path / "weights" / "__0_0.distcp", at)
    assert newest_whole(three[0].path.parent)[0] == three[2]
    assert "weights/__0_0.distcp" in (damage_of(three[2]) or "")


def test_the_parts_of_reading_back_cover_every_file_once(three: list[Checkpoint]) -> None:
    for name in checkpoints.files_of(three[2].path):
        flip_a_byte(three[2].path / name)
        assert sum(damage_of(three[2], part, 3) is not None for part in range(3)) == 1
        flip_a_byte(three[2].path / name)


def test_an_unfinished_one_is_removed_with_its_mark(three: list[Checkpoint]) -> None:
    folder = three[0].path.parent
    mark = folder / "step_00000012-unfinished"
    mark.touch()
    assert newest_whole(folder)[0] == three[1]
    told = clean_leftovers(folder)
    assert len(told) == 1 and "step_00000012" in told[0]
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000004", "step_00000008"]


def test_a_mark_without_a_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "step_00000004-unfinished").touch()  # killed between the mark and the first file
    clean_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_cleaning_leaves_alone_what_it_does_not_know(three: list[Checkpoint]) -> None:
    folder = three[0].path.parent
    (three[1].path / "manifest.json").unlink()  # damaged, not unfinished
    (folder / "notes-unfinished").touch()
    (folder / "step_mine").mkdir()
    before = sorted(folder.rglob("*"))
    assert clean_leftovers(folder) == []
    assert sorted(folder.rglob("*")) == before


def test_pruning_keeps_the_newest_and_the_one_resumed_from(three: list[Checkpoint]) -> None:
    folder = three[0].path.parent
    assert prune(folder, 1, None, three[0].path) == [three[1]]
    assert list_checkpoints(folder) == [three[0], three[2]]
    assert prune(folder, 0) == [three[0]]  # 0 would leave none to resume from
    assert prune(folder, -1) == []


def test_pruning_counts_whole_ones_only(three: list[Checkpoint]) -> None:
    (three[2].path / "manifest.json").unlink()
    assert prune(three[0].path.parent, 1) == [three[0]]
    assert three[1].path.exists() and three[2].path.exists()


@pytest.mark.parametrize("moment", ["rename", "rmtree"])
def test_a_removal_cut_short_leaves_no_half_checkpoint(
    three: list[Checkpoint], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*arguments: object) -> None:
        raise Killed

    if moment == "rename":
        monkeypatch.setattr(Path, "rename", killed)
    else:
        monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(Killed):
        prune(three[0].path.parent, 1)
    monkeypatch.undo()
    assert newest_whole(three[0].path.parent)[0] == three[2]
    for checkpoint in list_checkpoints(three[0].path.parent):
        assert checkpoints.problem_of(checkpoint) is None and damage_of(checkpoint) is None
    clean_leftovers(three[0].path.parent)
    assert not list(three[0].path.parent.glob(".*"))


def test_damaged_ones_are_moved_not_removed_and_never_over_each_other(three: list[Checkpoint]) -> None:
    first = set_aside(three[2])
    again = set_aside(make(three[0].path.parent, 12))
    assert first != again and first.is_dir() and again.is_dir()
    assert first.parent.name == "damaged"
    assert newest_whole(three[0].path.parent)[0] == three[1]


def test_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "a b'\"$(touch x)\nü実"
    checkpoint = make(folder, 4)
    assert newest_whole(folder)[0] == checkpoint and damage_of(checkpoint) is None


def test_a_file_that_this_rank_does_not_see_yet_is_in_the_manifest(tmp_path: Path) -> None:
    """NFS: another rank wrote it, and its entry has come by the network."""
    path = make(tmp_path, 4).path
    known = {"weights/__1_0.distcp": {"bytes": 7, "xxh3_128": "00"}}
    assert write_manifest(path, known, step=4) > 7
    assert "__1_0.distcp is missing" in (checkpoints.problem_of(Checkpoint(path, 4)) or "")


def test_a_disk_that_does_not_answer_is_no_damage(three: list[Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    def evicted(path: Path) -> str:
        raise OSError(errno.ESHUTDOWN, "Cannot send after transport endpoint shutdown", str(path))

    folder = three[0].path.parent
    monkeypatch.setattr(checkpoints, "hash_file", evicted)
    plan = SimpleNamespace(folder=folder.parent)
    attempt = folder.parent / "attempt"
    attempt.mkdir()
    with pytest.raises(Failure, match=r"step_00000012: .*Cannot send.*nothing was moved"):
        resume.choose_checkpoint(plan, attempt, 0, 1, print)  # type: ignore[arg-type]
    assert list_checkpoints(folder) == three


def test_leftovers_that_can_not_be_removed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 4).path.rename(tmp_path / ".removing-step_00000004")

    def busy(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    monkeypatch.setattr(checkpoints.shutil, "rmtree", busy)
    (told,) = clean_leftovers(tmp_path)
    assert "can't be removed: Directory not empty" in told


def test_a_half_written_checkpoint_goes_though_a_writer_leaves_its_note_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a writer does that had finished when another found the disk full. The moment is made: real ones are rare."""
    place = tmp_path / "step_00000008"
    place.mkdir()
    notes = iter([place / "shard.note"])
    real = shutil.rmtree

    def removed_beside_a_writer(path: Path, ignore_errors: bool) -> None:
        real(path, ignore_errors)
        for note in notes:
            path.mkdir()
            note.touch()

    monkeypatch.setattr(shutil, "rmtree", removed_beside_a_writer)
    checkpoints.remove_half_written(place)
    assert not place.exists()
