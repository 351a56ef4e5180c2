"""The output folder: made aside, given its final name when everything is proved, removed otherwise."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow.errors import Refusal
from nemo_workflow.files import fsync_dir


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that exists (unless it may be overwritten) or that can't be made."""
    if output.exists() and not overwrite:
        raise Refusal(f"--output-path {output}: exists already; choose another or add --overwrite")
    if output.exists() and not output.is_dir():
        raise Refusal(f"--output-path {output}: is a file, not a folder")
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise Refusal(f"--output-path {output}: {parent} can't be written to")


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output`; renamed to it on a clean exit, removed on an error.

    A folder that was there before stays whole until the new one has its name.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    _clear_remains(output)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.{os.getpid()}.", suffix=".partial", dir=output.parent))
    try:
        aside.chmod(0o755)
        yield aside
        old = None
        if output.exists():
            old = aside.with_suffix(".old")
            output.rename(old)
        aside.rename(output)
        fsync_dir(output.parent)
        if old is not None:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _clear_remains(output: Path) -> None:
    """Remove what a killed conversion to the same output left behind (its process is gone)."""
    for left in output.parent.glob(f".{output.name}.*.partial"):
        pid = left.name.removeprefix(f".{output.name}.").split(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
