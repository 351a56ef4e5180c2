"""The output files: written aside in a folder of this run, and renamed all together when every one is whole.

    <preprocessed>/.preprocess-XXXX/     this run's folder: `lock` (flock held while the run lives), the files to be
    <preprocessed>/.preprocess-XXXX/recipe         the hash of tokenizer and flags; journal.jsonl: what is done
    <preprocessed>/.preprocess-XXXX/commit.json    the list of renames, written before the first of them

Runs may share an output folder: one at a time begins, cleans up or renames in it.

A run killed before the list is there leaves a folder that the next run with the same recipe goes on with, and any other
deletes; one killed after it leaves renames that the next run finishes, and readers refuse the pairs of the folder until
then (indexed_dataset.read_pair).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nemo_workflow.data.indexed_dataset import COMMIT_NAME, LOCK_NAME, RUN_DIR_PREFIX
from nemo_workflow.preprocess.journal import NAME as JOURNAL_NAME
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import fsync_dir, write_json

RECIPE_NAME = "recipe"
MANY_FILES = 64
LIBC = ctypes.CDLL(None, use_errno=True)


class OvertakenError(Failure):
    """Another run was quicker to write the same pairs."""


class OutputFolder:
    """<output-dir>/preprocessed and this run's folder in it. Use it with `with`: without commit() nothing remains, unless
    `keep` says that it is worth going on with, as what was taken over is.

    With a `recipe`, the folder of a killed run of the same recipe is taken over; `resumed` tells.
    """

    def __init__(self, folder: Path, overwrite: bool, recipe: str | None = None):
        self.folder, self.overwrite, self.recipe = folder, overwrite, recipe
        self.resumed = False
        self.replaced: dict[str, tuple[int, int, int]] = {}  # final files that were there when the run began
        self.keep: Callable[[], bool] = lambda: self.resumed
        self.committed = False

    def __enter__(self) -> OutputFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(self.folder):  # or a clean-up takes the folder before its lock is taken
                found = _unfinished(self.folder, self.recipe) if self.recipe else None
                self.resumed = found is not None
                self.run_dir, self._lock = found or self._new()
        except OSError as error:
            raise Refusal(f"--output-dir {self.folder.parent}: cannot write there: {error.strerror}") from None
        self.moves: list[tuple[str, str]] = []
        return self

    def _new(self) -> tuple[Path, int | None]:
        run_dir = Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=self.folder))
        lock = _take_lock(run_dir)
        if self.recipe:
            (run_dir / RECIPE_NAME).write_text(self.recipe)
        return run_dir, lock

    def __exit__(self, *_: object) -> None:
        # a commit that failed half way is finished by the next run
        if not (self.run_dir / COMMIT_NAME).exists() and not self.keep():
            shutil.rmtree(self.run_dir, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def expect(self, names: list[str]) -> None:
        """These files may be there and are to be replaced, as they are now."""
        self.replaced.update({name: status for name in names if (status := _status(self.folder / name)) is not None})

    def move(self, name: str) -> None:
        """`name` of the run's folder is to become a file of the output folder. Call it in the order of the renames."""
        self.moves.append((name, name))

    def commit(self, remove: list[str]) -> None:
        """Rename everything; `remove` are old files that the new ones replace by being absent.

        Raises Failure where another run has written one of the pairs and nobody said --overwrite.
        """
        sync_files([self.run_dir / name for name, _ in self.moves])
        self.keep = lambda: False
        with _one_at_a_time(self.folder):
            _clean_up(self.folder, only_commits=True)  # renames that another run left half done come before ours
            self._check_absent()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                write_json(self.run_dir / COMMIT_NAME, {"moves": self.moves, "remove": remove})
                _finish_commit(self.run_dir)
                self.committed = True
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _check_absent(self) -> None:
        """They were absent when the run started, or were then as they are now."""
        pairs = [name for _, name in self.moves if name.endswith((".bin", ".idx"))]
        there = [
            name for name in pairs if (status := _status(self.folder / name)) and status != self.replaced.get(name)
        ]
        if there and not self.overwrite:
            raise OvertakenError(
                f"{self.folder / there[0]}: another run wrote it meanwhile, and it is left as it is; nothing of this run was "
                "written. Run it again with --overwrite to replace it, or with another --output-dir to keep both"
            )


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def sync_files(paths: list[Path]) -> None:
    """Put files on disk: one by one, or, where there are many, the file system they are on as a whole."""
    if len(paths) > MANY_FILES and hasattr(LIBC, "syncfs"):
        descriptor = os.open(paths[0].parent, os.O_RDONLY)
        done = LIBC.syncfs(descriptor) == 0
        os.close(descriptor)
        if done:
            return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def clean_up_stale(folder: Path, keep: str | None = None) -> list[str]:
    """Finish or delete what killed runs left in `folder`, but for one with the recipe `keep`; says what it did."""
    if not folder.is_dir():
        return []
    with _one_at_a_time(folder):
        return _clean_up(folder, keep)


def _unfinished(folder: Path, recipe: str) -> tuple[Path, int] | None:
    """The folder of a killed run with this recipe, and its lock."""
    for run_dir in sorted(folder.glob(f"{RUN_DIR_PREFIX}*")):
        if _recipe(run_dir) == recipe and (lock := _take_lock(run_dir)) is not None:
            for path in (*run_dir.glob("tokens-*"), *run_dir.glob("line-*")):
                path.unlink()
            return run_dir, lock
    return None


def _recipe(run_dir: Path) -> str | None:
    try:
        return (run_dir / RECIPE_NAME).read_text() if (run_dir / JOURNAL_NAME).exists() else None
    except OSError:
        return None


def _clean_up(folder: Path, keep: str | None = None, only_commits: bool = False) -> list[str]:
    done = []
    for run_dir in sorted(folder.glob(f"{RUN_DIR_PREFIX}*")):
        if keep is not None and _recipe(run_dir) == keep and not (run_dir / COMMIT_NAME).exists():
            keep = None  # one is enough
            continue
        lock = _take_lock(run_dir)
        if lock is None:  # that run is alive, or another user's
            continue
        if only_commits and not (run_dir / COMMIT_NAME).exists():
            os.close(lock)
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
    folders = {(run_dir.parent / final).parent for _, final in plan["moves"]}
    for place in folders:
        place.mkdir(parents=True, exist_ok=True)
    for aside, final in plan["moves"]:
        if (run_dir / aside).exists():
            (run_dir / aside).replace(run_dir.parent / final)
    for place in folders | {run_dir.parent}:
        fsync_dir(place)
    (run_dir / COMMIT_NAME).unlink()


def _take_lock(run_dir: Path) -> int | None:
    """A file descriptor that holds the run's lock, or None if another process does or the run is not ours."""
    try:
        descriptor = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
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
def disk_errors(folder: Path, left: str = "") -> Iterator[None]:
    """A full disk, a file that vanished: a Failure in plain words; `left` says what that leaves."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        remedy = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise Failure(f"{where}: {error.strerror or error}{left}{remedy}") from None
