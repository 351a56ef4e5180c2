"""The output files: written aside in a folder of this run, and renamed all together when every one is whole.

    <preprocessed>/.preprocess-XXXX/     this run's folder: `lock` (flock held while the run lives), the files to be
    <preprocessed>/.preprocess-XXXX/commit.json    the list of renames, written before the first of them

Runs may share an output folder: one at a time begins, cleans up or renames in it.

A run killed before the list is there leaves a folder that the next run deletes; one killed after it leaves renames that
the next run finishes, and readers refuse the pairs of the folder until then (dataset.read_pair).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nemo_workflow.data.indexed_dataset import COMMIT_NAME, RUN_DIR_PREFIX
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import fsync_dir, write_json


class OutputFolder:
    """<output-dir>/preprocessed and this run's folder in it. Use it with `with`: without commit() nothing remains."""

    def __init__(self, folder: Path, overwrite: bool):
        self.folder, self.overwrite = folder, overwrite

    def __enter__(self) -> OutputFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(self.folder):  # or a clean-up takes the folder before its lock is taken
                self.run_dir = Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=self.folder))
                self._lock = _take_lock(self.run_dir)
        except OSError as error:
            raise Refusal(f"--output-dir {self.folder.parent}: cannot write there: {error.strerror}") from None
        self.moves: list[tuple[str, str]] = []
        return self

    def __exit__(self, *_: object) -> None:
        if not (self.run_dir / COMMIT_NAME).exists():  # a commit that failed half way is finished by the next run
            shutil.rmtree(self.run_dir, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def move(self, name: str) -> None:
        """`name` of the run's folder is to become a file of the output folder. Call it in the order of the renames."""
        self.moves.append((name, name))

    def commit(self, remove: list[str]) -> None:
        """Rename everything; `remove` are old files that the new ones replace by being absent.

        Raises Failure where another run has written one of the pairs and nobody said --overwrite.
        """
        for name, _ in self.moves:
            descriptor = os.open(self.run_dir / name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        with _one_at_a_time(self.folder):
            _clean_up(self.folder)  # renames that another run left half done come before ours
            self._check_absent()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                write_json(self.run_dir / COMMIT_NAME, {"moves": self.moves, "remove": remove})
                _finish_commit(self.run_dir)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _check_absent(self) -> None:
        """They were absent when the run started."""
        pairs = [self.folder / name for _, name in self.moves if name.endswith((".bin", ".idx"))]
        there = [path for path in pairs if path.exists()]
        if there and not self.overwrite:
            raise Failure(
                f"{there[0]}: another run wrote it meanwhile, and it is left as it is; nothing of this run was written. "
                "Run it again with --overwrite to replace it, or with another --output-dir to keep both"
            )


def clean_up_stale(folder: Path) -> list[str]:
    """Finish or delete what killed runs left in `folder`; says what it did."""
    if not folder.is_dir():
        return []
    with _one_at_a_time(folder):
        return _clean_up(folder)


def _clean_up(folder: Path) -> list[str]:
    done = []
    for run_dir in sorted(folder.glob(f"{RUN_DIR_PREFIX}*")):
        lock = _take_lock(run_dir)
        if lock is None:  # that run is alive, or another user's
            continue
        if (run_dir / COMMIT_NAME).exists():
            _finish_commit(run_dir)
            done.append(f"finished the renames of a run that was killed at its very end ({run_dir})")
        else:
            done.append(f"deleted the unfinished files of a run that was killed ({run_dir})")
        shutil.rmtree(run_dir, ignore_errors=True)
        os.close(lock)
    return done


def _finish_commit(run_dir: Path) -> None:
    plan = json.loads((run_dir / COMMIT_NAME).read_text(encoding="utf-8"))
    for name in plan["remove"]:
        (run_dir.parent / name).unlink(missing_ok=True)
    for aside, final in plan["moves"]:
        if (run_dir / aside).exists():
            (run_dir / aside).replace(run_dir.parent / final)
    fsync_dir(run_dir.parent)
    (run_dir / COMMIT_NAME).unlink()


def _take_lock(run_dir: Path) -> int | None:
    """A file descriptor that holds the run's lock, or None if another process does or the run is not ours."""
    try:
        descriptor = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except (FileNotFoundError, PermissionError):  # just deleted by its own run, or another user's
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other run begins, cleans up or renames in `folder`, and keep them waiting meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS locks no folders, and some file systems nothing: there a moment is left to chance
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full disk, a file that vanished: a Failure in plain words."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        mend = "; free some space and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise Failure(f"{where}: {error.strerror or error}; nothing was written{mend}") from None
