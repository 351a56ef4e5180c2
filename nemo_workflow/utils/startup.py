"""What a process settles before its work: streams that are closed, a folder that is gone, a user without a name, a TMPDIR
that is too long, a Python that has dropped its docstrings, a locale without UTF-8. Each makes a library fail far from here."""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow import REPOSITORY
from nemo_workflow.utils import scratch
from nemo_workflow.utils.machine import user_name

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where getpass looks before it asks passwd
# environment variable: how many ranks there are -> who sets it for each of them
LAUNCHERS = {"WORLD_SIZE": "torchrun", "SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun"}
GONE_ON = "NEMO_WORKFLOW_GONE_ON"  # environment variable: the process that has gone on in our environment
HOMELESS = "NEMO_WORKFLOW_HOMELESS"  # environment variable: HOME is only our stand-in for one


def settle() -> list[str]:
    """Settle what can be settled for this process and those that it starts; returns what can't, as texts of refusals."""
    _open_closed_streams()
    try:
        Path.cwd()
    except FileNotFoundError:
        return ["the current folder no longer exists; change to one that does (cd)"]
    _in_our_environment()
    _keep_docstrings()
    _speak_utf8()
    _name_the_user()
    return list(short_sockets())


def started_often() -> str:
    """The program that has started this command as each of several ranks, by what it tells them; empty where none has."""
    for size, launcher in LAUNCHERS.items():
        if os.environ.get(size, "1") not in ("", "0", "1") and (
            launcher != "torchrun" or "TORCHELASTIC_RUN_ID" in os.environ
        ):
            return launcher
    return ""


def no_home(path: str) -> str:
    """Why `~` or `~NAME` at the beginning of a path leads nowhere; empty where it leads somewhere, or there is none."""
    found = re.fullmatch(r"~([\w.-]*)(/.*)?", path, re.DOTALL)
    if not found:
        return ""
    if not found[1]:
        text = "~ can't be expanded: HOME is not set, and this user has no entry in passwd"
        return f"{text}; write the path in full" if HOMELESS in os.environ else ""
    try:
        Path(f"~{found[1]}").expanduser()
    except RuntimeError:
        return f"there is no user {found[1]}; write the path in full, or ./~{found[1]} for a name that begins so"
    return ""


def _open_closed_streams() -> None:
    """Give /dev/null to streams that are closed (`>&-`): the next file opened would get what is printed into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - lives as long as we


def _in_our_environment() -> None:
    """Go on in the .venv that `make install` has made, where this Python has no NeMo: nobody had to activate it."""
    ours = REPOSITORY / ".venv"
    python = ours / "bin" / "python"
    if (
        importlib.util.find_spec("nemo")
        or Path(sys.prefix).resolve() == ours.resolve()
        or not os.access(python, os.X_OK)
        or os.environ.get(GONE_ON) == str(os.getpid())  # and it hasn't NeMo either, as with -S
    ):
        return
    os.environ[GONE_ON] = str(os.getpid())
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.orig_argv[1:]])


def _keep_docstrings() -> None:
    """Start this Python again without -O: fiddle reads docstrings, and Megatron checks its settings with assertions."""
    os.environ.pop("PYTHONOPTIMIZE", None)
    if not sys.flags.optimize:
        return
    words = sys.orig_argv[1:]
    own = list(itertools.takewhile(lambda word: re.fullmatch(r"-[A-Za-z]+", word) and word[1] not in "mcWX", words))
    kept = [word for word in (word.replace("O", "") for word in own) if word != "-"]
    os.execv(sys.executable, [sys.executable, *kept, *words[len(own) :]])


def _speak_utf8() -> None:
    """Start this Python again in UTF-8 mode where a locale has it read paths otherwise; libraries in Rust don't.

    What stdout can't print all the same (PYTHONIOENCODING) is printed as its number, as on stderr.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":  # which -I would not read
        os.environ["PYTHONUTF8"] = "1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _name_the_user() -> None:
    """Let libraries find a name and a home for a uid that passwd doesn't know (docker --user, OpenShift)."""
    name = user_name(os.getuid())
    if not name and not any(os.environ.get(variable) for variable in NAMES):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    if not os.environ.get("HOME"):
        if name:
            os.environ.pop("HOME", None)  # an empty one hides what passwd says
        else:
            os.environ[HOMELESS] = "yes"
            os.environ["HOME"] = _own_folder()


def keep_caches_out_of_home() -> None:
    """Have matplotlib, which NeMo imports by way of torchmetrics and nobody uses, keep its list of fonts with the temporary files."""
    if "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = str(Path(_own_folder()) / "matplotlib")


def _own_folder() -> str:
    """A folder of this user's own below the one for temporary files, the same each time if nobody else has taken the name."""
    home = Path(tempfile.gettempdir()) / scratch.OWN.format(os.getuid())
    try:
        home.mkdir(mode=0o700)
    except FileExistsError:
        if home.is_symlink() or home.stat().st_uid != os.getuid():
            return tempfile.mkdtemp(prefix=f"{home.name}-")
    return str(home)


def short_sockets() -> Iterator[str]:
    """Have multiprocessing's unix sockets elsewhere where TMPDIR is too long for them; yields a problem if nowhere can be.

    For this process and those that multiprocessing starts from it.
    """
    if not any(len(os.fsencode(os.environ.get(name, ""))) > 60 for name in ("TMPDIR", "TEMP", "TMP")):
        return  # without an import
    place, short = tempfile.gettempdir(), scratch.socket_place()
    if short is None:
        yield (
            f"TMPDIR {place}: {len(os.fsencode(place))} bytes are too long for the unix sockets of the processes that save"
            f" checkpoints, and none of {', '.join(scratch.SHORT_PLACES)} can be written; set TMPDIR to a path of at most"
            f" {scratch.SOCKET_PATH - scratch.SOCKET_NAME} bytes"
        )
    elif short != place:
        scratch.keep_sockets()
