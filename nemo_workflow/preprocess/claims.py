"""Who of several machines does what, told by files in a folder that all of them see.

A claim is a file that its owner makes and touches while it works. The file system's clock tells its age, so that the
machines' own need not agree, and a claim that grew too old is another's to take: its machine was lost. Should its owner live
after all, two do the same work, with the same result.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

LOST_SECONDS = 60.0  # without a touch; network disks may show one late


class Claims:
    """The claims of one machine, `owner`; touched from a thread until close()."""

    def __init__(self, folder: Path, owner: str, lost_seconds: float = LOST_SECONDS):
        self.folder, self.owner, self.lost_seconds = folder, owner, lost_seconds
        folder.mkdir(parents=True, exist_ok=True)
        self._clock = folder / f"clock-{owner}"
        self._held: set[Path] = set()
        self._end = threading.Event()
        threading.Thread(target=self._touch, daemon=True).start()

    def take(self, name: str) -> bool:
        """Claim it, if nobody has or its owner is lost."""
        path = self.folder / f"{name}.claim"
        if self._lost(path):
            with suppress(FileNotFoundError):  # another was faster
                path.rename(self.folder / f"{name}.lost-{self.owner}")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        self._held.add(path)
        return True

    def release(self, name: str) -> None:
        path = self.folder / f"{name}.claim"
        self._held.discard(path)
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything."""
        self._end.set()
        for path in list(self._held):
            self.release(path.stem)
        self._clock.unlink(missing_ok=True)

    def _lost(self, path: Path) -> bool:
        try:
            with path.open("rb") as stream:  # opening makes a network disk look again
                touched = os.fstat(stream.fileno()).st_mtime
        except FileNotFoundError:
            return False
        self._clock.touch()
        return self._clock.stat().st_mtime - touched > self.lost_seconds

    def _touch(self) -> None:
        while not self._end.wait(self.lost_seconds / 10):
            for path in list(self._held):
                with suppress(OSError):
                    os.utime(path)
