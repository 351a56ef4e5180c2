"""Files that are either whole or not there (written aside, flushed to disk, then renamed), and locks on files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nemo_workflow import REPOSITORY
from nemo_workflow.utils.meant import close_to

# scripts of the repository -> the commands that they are where the package is installed
INSTALLED = {
    "preprocess_data.sh": "preprocess-data",
    "convert_from_hf_to_nemo2.py": "convert-hf-to-nemo2",
    "convert_from_nemo2_to_hf.py": "convert-nemo2-to-hf",
}
LIKE = 0.8  # difflib's ratio of two names, from which one may be the other, mistyped
IN_FRONT = "a shell variable in front of it may be unset"  # of a path in /
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre without -o flock, NFS without its lock daemon


def flock(stream: IO[Any], how: int) -> bool:
    """Lock a file; False on a disk without locks. Raises BlockingIOError where another holds it and LOCK_NB is given."""
    try:
        fcntl.flock(stream, how)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


def fsync_dir(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def written_aside(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path`; on a clean exit it is fsynced and renamed to `path`, on an error removed.

    The old file, if any, stays whole until the rename. `mode` is "w" (UTF-8 text) or "wb".
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(fd, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), 0o666 & ~_umask())  # mkstemp makes 0600
            os.fsync(stream.fileno())
        aside.replace(path)
        fsync_dir(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def nothing_half_made(folder: Path) -> Iterator[None]:
    """Make `folder`, and those above it, where they aren't there. On any error, Ctrl-C too, all that is new in them is removed again."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    before = set(folder.iterdir()) if folder.exists() else set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for path in set(folder.iterdir()) - before:
                path.unlink()
            for place in made:
                place.rmdir()
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, aside and renamed."""
    with written_aside(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def absolute(path: str | Path) -> Path:
    """A path as it is told and kept: in full, and without `..` where that leads to the same place, as it does but behind a link.

    A text may begin with ~; ./~x and a Path are taken as they are.
    """
    home = isinstance(path, str) and path.startswith("~")
    full = (Path(path).expanduser() if home else Path(path)).absolute()
    if ".." not in full.parts:
        return full
    plain = Path(os.path.normpath(full))
    with suppress(OSError, RuntimeError):  # a loop of links
        return plain if plain.resolve() == full.resolve() else full
    return full


def from_here_if_below(path: str | Path) -> str:
    """A path as it is told from the current folder where it lies below it, else as it is."""
    found = os.path.relpath(path) if Path(path).is_absolute() else str(path)
    return str(path) if found.startswith("..") else found


def script(name: str) -> str:
    """How a script of the repository is typed in the current folder, or its command after `pip install .`, which brings no file."""
    path = REPOSITORY / name
    if not path.is_file():
        return INSTALLED[path.name]
    return f"{'bash' if path.suffix == '.sh' else 'python'} {shlex.quote(from_here_if_below(path))}"


def preprocessing_of(text: str | Path) -> str:
    """What is typed to train on a text: the whole command that makes data of it, and the flag that takes this."""
    command = f"{script('preprocess_data.sh')} --tokenizer DIR_OR_ID --input {shlex.quote(str(text))} --output-dir DIR"
    return f"{command}, then --dataset-dir DIR"


def typed_python() -> str:
    """`python` where the shell finds this Python so, in its environment, else how this one is typed in the current folder."""
    found = shutil.which("python")
    ours = found and Path(found).absolute().parent == Path(sys.executable).absolute().parent
    return "python" if ours else from_here_if_below(sys.executable)


def from_here(path: str | Path) -> str:
    """What a refusal of a path that isn't there says behind it, in brackets: where a relative one begins.

    Of one that would be in a folder of / that isn't there, as `$PLACE/runs` is without a PLACE, what that may come of; else ''.
    """
    if re.search(r"\$\{?[A-Za-z_]", str(path)):
        return " (nothing puts a variable's value in its place here; write the path in full)"
    if Path(path).is_absolute() or str(path).startswith("~"):
        top = Path("/", *Path(path).parts[1:2])
        if str(path).startswith("/") and not os.path.lexists(top):
            return f" ({IN_FRONT})"
        near = _spelled_like(path) or _demos(path)
        return f" ({near})" if near else ""
    near = _spelled_like(path) or _demos(path)
    return f" (relative to the current folder, {Path.cwd()}{f'; {near}' if near else ''})"


def _demos(path: str | Path) -> str:
    """'`make demo` makes it' of what isn't there and is a part of the demo, where the Makefile is; else ''."""
    return "`make demo` makes it" if "demo_output" in Path(path).parts and (REPOSITORY / "Makefile").is_file() else ""


def _spelled_like(path: str | Path) -> str:
    """'did you mean my_data?' of a path that isn't there, where the nearest name beside it is; else ''."""
    place = Path(path).expanduser()
    with suppress(OSError, ValueError):
        if not os.path.lexists(place) and (
            close := close_to(place.name, (one.name for one in place.parent.iterdir()), LIKE)
        ):
            return f"did you mean {shlex.quote(str(Path(path).with_name(close[0])))}?"
    return ""


def no_such_folder(path: str | Path) -> str:
    """What a refusal says of a path that should be a folder's and is not: 'no such folder …', or that it is a file."""
    return "a file, not a folder" if Path(path).expanduser().is_file() else f"no such folder{from_here(path)}"
