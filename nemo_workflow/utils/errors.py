"""How a command of this project says no: one line a problem on stderr, exit code 2, no traceback."""

from __future__ import annotations

import importlib
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_workflow import REPOSITORY, leave
from nemo_workflow.utils import scratch, startup
from nemo_workflow.utils.console import FULL, Meter, unwritten
from nemo_workflow.utils.libraries import importable

STOPPED = 75  # exit code of a rank that saved and stopped because it was asked to (EX_TEMPFAIL)
HUNG = 124  # exit code of a Slurm job whose ranks made no step for --timeout-minutes (as timeout(1) says it)


ALIKE = 4  # problems of one kind that are printed
DIFFERING = re.compile(r"\S*/\S*|'[^']*'|\d[\d,.]*")


class Refusal(Exception):
    """The user can fix this: each problem names the flag or file, what is wrong, and the fix."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Failure(Exception):
    """The work was started and did not succeed (exit code 1): a failed verification, a failed rank, a full disk."""


@contextmanager
def os_errors_refused(flag: str) -> Iterator[None]:
    """Around what is looked at before any work starts: no permission, a broken disk, a name too long."""
    try:
        yield
    except OSError as error:
        where = "" if not error.filename or flag.endswith(str(error.filename)) else f" {error.filename}:"
        raise Refusal(f"{flag}:{where} {error.strerror or error}; check the path and its permissions") from None


def program_name() -> str:
    """This command as the user typed it: `pretrain_llm.py`, `python -m nemo_workflow.runs`."""
    module = sys.modules["__main__"].__spec__  # None where a file was run
    return f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name


def few_of_a_kind(problems: Iterable[str]) -> Iterator[str]:
    """The problems in their order; of those that differ in paths and numbers only, as of 500 files, the first and how many more."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(DIFFERING.sub("*", problem), []).append(problem)
    for alike in kinds.values():
        if len(alike) <= ALIKE:
            yield from alike
        else:
            yield from alike[: ALIKE - 1]
            yield f"and {len(alike) - ALIKE + 1:,} more like the {ALIKE - 1} above, the last: {alike[-1]}"


def _imported(name: str) -> Callable[[], int | None]:
    module, _, function = name.partition(":")
    found: Callable[[], int | None] = getattr(importlib.import_module(module), function)
    return found


# module -> what pip calls it, for what requirements/common.txt installs and a command can't do without
PACKAGES = {
    "bokeh": "bokeh",
    "fastokens": "fastokens",
    "jinja2": "Jinja2",
    "megatron": "megatron-core",
    "nemo": "nemo_toolkit",
    "nemo_run": "nemo_run",
    "numpy": "numpy",
    "opencc": "opencc",
    "orjson": "orjson",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "requests": "requests",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
    "wandb": "wandb",
    "xxhash": "xxhash",
    "yaml": "PyYAML",
}


def missing_package(error: ModuleNotFoundError) -> str | None:
    """The sentence for a package of ours that isn't installed, with the line that installs it; None for any other module."""
    package = PACKAGES.get(error.name or "")
    if package is None:
        return None
    if not importable("nemo"):  # the one that all the others came with
        return f"{package} and other packages are not installed for {sys.executable}; {how_to_install()}"
    return f"the package {package} is not installed; pip install {package}, or all with pip install -r requirements.txt"


def how_to_install() -> str:
    """What to type where this Python has none of our packages."""
    environment = REPOSITORY / ".venv"
    if (environment / "bin" / "activate").is_file():
        return f"type `source {shlex.quote(str(environment))}/bin/activate`, or, if that doesn't help, `make install` in {REPOSITORY}"
    if not (REPOSITORY / "Makefile").is_file():
        return "pip install -r requirements.txt installs all of them"
    return (
        f"type `make install` in {REPOSITORY} (or pip install -r requirements.txt there), then"
        f" `source {shlex.quote(str(environment))}/bin/activate`"
    )


def closed(error: PermissionError) -> str:
    """What is said of a file or folder that this user may not read or write."""
    return f"{error.filename}: {error.strerror}; check its permissions, and those of the folders above it"


def run_command(main: Callable[[], int | None] | str, program: str | None = None) -> None:
    """Run a command's main function and end the process with its exit code: 0 done, 1 failed, 2 refused, 130 Ctrl-C.

    `main` may be its name, MODULE:FUNCTION: then a package that its module needs and lacks is refused like the rest.
    `program` names the command in front of an error where a script stands before it.
    """
    program = program or program_name()

    def say(text: str) -> None:  # the code counts though its words find no space
        Meter(sys.stderr, outlive=True).note(text)

    try:
        _on_ctrl_c(signal.default_int_handler)
        problems = startup.settle()
        if problems:
            raise Refusal(problems)
        code = (_imported(main) if isinstance(main, str) else main)() or 0
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        say(f"{program}: error: {missing}")
        code = 2
    except Refusal as refusal:
        for problem in few_of_a_kind(refusal.problems):
            say(f"{program}: error: {problem}")
        code = 2
    except Failure as failure:
        say(f"{program}: failed: {failure}")
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `… | head` closed its end
        sys.stderr.close()
        code = 141
    except OSError as error:  # an empty line is no loss where another file's disk is full, and a traceback follows
        if isinstance(error, PermissionError) and error.filename:
            why = closed(error)
        elif error.errno in FULL and (problem := unwritten(sys.stdout, "\n")):
            why = f"what it prints can't be written: {problem}"
        else:
            raise
        say(f"{program}: failed: {why}")
        code = 1
    if not sys.stderr.closed:
        unwritten(sys.stderr)
    _on_ctrl_c(leave)
    scratch.remove_empty()
    sys.exit(code)


def _on_ctrl_c(do: Callable[..., None]) -> None:
    """Set what Ctrl-C does, unless whoever started this command has it ignored (nohup, a job in the background)."""
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, do)
