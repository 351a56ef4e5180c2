"""A save that is whole stays, whatever goes wrong after it. No training here: NeMo's callback without a trainer."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.launch.restarts import worth_another
from nemo_workflow.run_dir.checkpoints import write_manifest
from tests.later import later

pytestmark = pytest.mark.slow
saving = later("nemo_workflow.training.checkpointing")
TRAINER = SimpleNamespace(is_global_zero=True, global_step=4)


def saver(notes: list[str]) -> Any:
    made = object.__new__(saving.Checkpoints)
    made.plan = SimpleNamespace(settings=Settings(keep_checkpoints=1))
    made.run_log = SimpleNamespace(note=notes.append)
    return made


def whole(folder: Path) -> Path:
    path = folder / "step_00000004"
    (path / "context").mkdir(parents=True)
    (path / "context" / "io.json").write_text("{}")
    write_manifest(path, step=4)
    return path


def test_an_older_checkpoint_that_can_not_be_removed_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(saving, "prune", busy)
    notes: list[str] = []
    saver(notes)._prune(tmp_path)
    assert "Directory not empty" in notes[0]


def test_an_error_after_a_save_leaves_the_checkpoint(tmp_path: Path) -> None:
    path = whole(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        saver([])._failed(TRAINER, f"{path}.ckpt", OSError(errno.ENOSPC, "No space left on device"))
    assert (path / "manifest.json").exists()


@pytest.mark.parametrize("part", ["context/io.json", "manifest.json"])
def test_half_a_checkpoint_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(saving.dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(saving.Checkpoints, "_shared_reason", lambda *_: "no reason")
    path = whole(tmp_path)
    (path / part).unlink()
    with pytest.raises(saving.SaveFailed):
        saver([])._failed(TRAINER, f"{path}.ckpt", OSError(errno.EIO, "Input/output error"))
    assert not path.exists()


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(errno.EPIPE, "Broken pipe"), EOFError(), RuntimeError("results_queue should not be empty")],
)
def test_a_writer_that_was_ended_is_told(error: Exception, tmp_path: Path) -> None:
    """As the out-of-memory killer leaves it: the rank only finds that nobody answers."""
    checkpoints = saver([])
    checkpoints.plan.folder = tmp_path
    said = checkpoints._reason(error)
    assert said.startswith("a process that writes it was ended from outside (") and said.endswith("out of memory?")
    assert checkpoints._reason(saving.CheckpointException("write", {0: (error, None)})) == said
    of_another_rank = checkpoints._reason(saving.CheckpointException("write", {}))
    assert len(of_another_rank) < len(said)  # the longest of all ranks' reasons counts
    assert worth_another(f"rank 1:\na checkpoint could not be saved: {said}; those before it are whole")
