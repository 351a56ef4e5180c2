"""The output folder: made aside, given its final name when everything is proved, removed otherwise."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow.conversion.report import NAME
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import fsync_dir

MOUNTS = Path("/proc/self/mountinfo")
SWAP_SECONDS = 60  # for two renames, however slow the disk and wrong the clocks


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that exists (unless it is a model that may be overwritten) or that can't be made."""
    target = resolved(output)
    if _is_mount(target):
        raise Refusal(
            f"--output-path {output}: is a mount point, which can't be renamed; name a folder below it, {output}/model"
        )
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise Refusal(f"--output-path {output}: {parent} can't be written to")
    _restore(target)
    if target.exists() and not target.is_dir():
        raise Refusal(f"--output-path {output}: is a file, not a folder; choose a folder")
    if target.exists() and not overwrite:
        raise Refusal(f"--output-path {output}: exists already; choose another or add --overwrite")
    if target.exists() and not _may_go(target):
        raise Refusal(
            f"--output-path {output}: --overwrite replaces a model's folder, and this one holds something else;"
            " choose another path, or empty the folder"
        )


def check_apart(output: Path, folder: Path, flag: str = "--source") -> None:
    """Refuse an output that is the folder that is read, holds it or lies in it."""
    target, read = resolved(output), folder.resolve()
    if target == read or target in read.parents:
        raise Refusal(f"--output-path {output}: is or holds what {flag} names, {folder}; choose a path outside it")
    if read in target.parents and flag == "--source":
        raise Refusal(f"--output-path {output}: lies inside {flag} {folder}; choose a path outside it")


def resolved(output: Path) -> Path:
    """Where the output lies, whatever links lead there: a link itself is never replaced."""
    try:
        return output.resolve()
    except RuntimeError as error:  # Python's word for it before 3.13
        raise Refusal(f"--output-path {output}: is a symlink loop; choose another path") from error


def _may_go(folder: Path) -> bool:
    """Whether a folder is empty or a model's: ours, NeMo's or Hugging Face's."""
    names = {path.name for path in folder.iterdir()}
    weights = any(name.endswith((".safetensors", ".bin")) for name in names)
    return not names or NAME in names or {"context", "weights"} <= names or ("config.json" in names and weights)


def _is_mount(folder: Path) -> bool:
    """Whether something is mounted there, be it a folder of the same disk."""
    if folder.is_mount():
        return True
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # no /proc here
        return False
    points = {re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in lines}
    return str(folder) in points


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output`; renamed to it on a clean exit, removed on an error.

    A folder that was there before stays whole until the new one has its name.
    """
    output = resolved(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _restore(output)
    _clear_remains(output)
    before = output.exists()
    aside = Path(
        tempfile.mkdtemp(prefix=f".{output.name}.{os.getpid()}@{_here()}.", suffix=".partial", dir=output.parent)
    )
    try:
        aside.chmod(0o755)
        yield aside
        if output.exists() and not before:
            raise Failure(f"--output-path {output}: somebody else made it meanwhile; choose another")
        _put_in_place(aside, output)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _put_in_place(aside: Path, output: Path) -> None:
    """Give `aside` its final name; the folder that has it goes when that is done, and comes back if it can't be."""
    old = aside.with_suffix(".old")
    try:
        if output.exists():
            output.rename(old)
        aside.rename(output)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
    fsync_dir(output.parent)
    if old.exists():
        shutil.rmtree(old)


def _restore(output: Path) -> None:
    """Give a folder its name back that a conversion had moved away when it was killed."""
    for old in _remains(output, "old"):
        if not output.exists():
            old.rename(output)


def _clear_remains(output: Path) -> None:
    """Remove what a killed conversion to the same output left behind."""
    for left in [*_remains(output, "partial"), *(_remains(output, "old") if output.exists() else [])]:
        shutil.rmtree(left, ignore_errors=True)


def _remains(output: Path, kind: str) -> list[Path]:
    """The folders beside `output` of a conversion that is over, as far as can be told from here."""
    if not output.parent.is_dir():
        return []
    name = re.compile(rf"\.{re.escape(output.name)}\.(\d+)@([\w-]+)\.\w+\.{kind}")
    found = ((path, name.fullmatch(path.name)) for path in output.parent.iterdir())
    return sorted(path for path, match in found if match and _over(path, int(match[1]), match[2]))


def _over(path: Path, pid: int, host: str) -> bool:
    """Whether the conversion that a folder beside the output belongs to has ended.

    Of another machine's on a shared disk only this is known: between its two renames, when `.old` alone is there, passes
    a moment.
    """
    if host == _here():
        return not _alive(pid)
    return path.suffix == ".old" and time.time() - path.stat().st_ctime > SWAP_SECONDS


def _here() -> str:
    """This machine, and the container on it, within which a process id means one process."""
    namespace = Path("/proc/self/ns/pid")
    number = namespace.stat().st_ino if namespace.exists() else 0
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())}-{number}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
