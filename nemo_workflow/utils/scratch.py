"""Folders for temporary files that go with the process that made them, however it ends.

Each holds a lock that its process, and those forked from it, hold as long as they live: what a killed one has left is told by
its free lock, and removed by the next command of ours.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import getpass
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nemo_workflow.utils.files import flock

OWN = "nemo-workflow-{}"  # with the user's number: his folder for what stays from one command to the next
PREFIX = "nemo-"  # as long as multiprocessing's own pymp-
LOCK = ".nemo-workflow.lock"  # in a folder of ours
SOCKET_PATH = 107  # bytes of a unix socket's path, linux/un.h
SOCKET_NAME = len("/pymp-12345678/listener-12345678")  # what multiprocessing puts below the folder for temporary files
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")

_sockets: list[tuple[int, Path, IO[str]]] = []  # this process's: pid, folder, lock


def socket_place() -> str | None:
    """Where a unix socket can be made: the folder for temporary files, else a shorter one; None where none can be written."""
    place = tempfile.gettempdir()
    if _short_enough(place):
        return place
    shorter = (os.environ.get("XDG_RUNTIME_DIR", ""), *SHORT_PLACES)
    return next((one for one in shorter if one and _short_enough(one) and os.access(one, os.W_OK | os.X_OK)), None)


def _short_enough(place: str) -> bool:
    return len(os.fsencode(place)) + SOCKET_NAME <= SOCKET_PATH


def keep_sockets() -> None:
    """Have multiprocessing's unix sockets, of this process and of those that it starts, in a folder that goes with it.

    multiprocessing's own stays behind where a process is killed, or leaves by os._exit. Nothing is done where no place is
    short enough.
    """
    place = socket_place()
    if place is None or any(pid == os.getpid() for pid, _, _ in _sockets):
        return
    from multiprocessing import process

    sweep()
    folder, lock = _made(place)
    _sockets.append((os.getpid(), folder, lock))
    # what multiprocessing.util.get_temp_dir does the first time that it is asked
    process.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]
    atexit.register(leave_sockets)


def leave_sockets() -> None:
    """Remove this process's folder of sockets; for one that leaves by os._exit. A forked process removes none."""
    for pid, folder, _ in _sockets:
        if pid == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the block, among the temporary files, with nothing in it but its lock."""
    sweep()
    folder, lock = _made(tempfile.gettempdir())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _made(place: str) -> tuple[Path, IO[str]]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        lock = (folder / LOCK).open("w")
        flock(lock, fcntl.LOCK_EX)
        if (folder / LOCK).exists():  # else a sweep came between the two
            return folder, lock
        lock.close()


def remove_empty() -> None:
    """Remove the folders that libraries make when they are imported, and that nothing was written to.

    torch's compiler makes the one of its cache, and our own stands ready for matplotlib's.
    """
    names = [OWN.format(os.getuid())]
    with contextlib.suppress(KeyError, OSError):  # this user has no name
        names.append("torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser()))
    for name in names:
        with contextlib.suppress(OSError):  # not there, or something is in it
            (Path(tempfile.gettempdir()) / name).rmdir()


def sweep() -> None:
    """Remove this user's folders whose process has ended without doing so."""
    for place in dict.fromkeys(filter(None, (tempfile.gettempdir(), socket_place()))):
        for folder in Path(place).glob(f"{PREFIX}????????"):
            with contextlib.suppress(OSError):  # another's, in use, or gone just now
                if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                    continue
                with (folder / LOCK).open("r+") as lock:
                    if flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                        shutil.rmtree(folder, ignore_errors=True)
