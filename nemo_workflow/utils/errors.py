"""How a command of this project says no: one line a problem on stderr, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_workflow.utils import startup

STOPPED = 75  # exit code of a rank that saved and stopped because it was asked to (EX_TEMPFAIL)
HUNG = 124  # exit code of a Slurm job whose ranks made no step for --timeout-minutes (as timeout(1) says it)


class Refusal(Exception):
    """The user can mend this: each problem names the flag or file, what is wrong, and the mend."""

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


def run_command(main: Callable[[], int | None], program: str | None = None) -> None:
    """Run a command's main function and end the process with its exit code: 0 done, 1 failed, 2 refused, 130 Ctrl-C.

    `program` names the command in front of an error where a script stands before it.
    """
    program = program or program_name()
    try:
        problems = startup.settle()
        if problems:
            raise Refusal(problems)
        code = main() or 0
    except Refusal as refusal:
        for problem in refusal.problems:
            print(f"{program}: error: {problem}", file=sys.stderr)
        code = 2
    except Failure as failure:
        print(f"{program}: failed: {failure}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `… | head` closed its end
        sys.stderr.close()
        code = 141
    sys.exit(code)
