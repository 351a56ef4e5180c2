"""Pretrain a language model with NVIDIA NeMo 2.0: plan, train, resume, convert."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent

# `python -m nemo_workflow.dataset` and its kin: the commands that are not a package of their own
__path__.append(str(PACKAGE / "runs" / "commands"))

# what a user types, beside `python -m nemo_workflow.NAME`; `make generate` writes it into tools/ctrl_c.pth too
COMMANDS = (
    "pretrain_llm.py", "convert_from_hf_to_nemo2.py", "convert_from_nemo2_to_hf.py", "list_supported_model_config.py",
    "download_wiki.py", "pretrain-llm", "preprocess-data", "convert-hf-to-nemo2", "convert-nemo2-to-hf", "download-wiki",
    "nemo-runs",
)  # fmt: skip
COMMAND_PACKAGES = ("nemo_workflow", "nemo_workflow.runs.commands")  # whose modules are run with -m


def is_a_command(words: "Sequence[str]") -> bool:
    """Whether Python was started with these words (sys.orig_argv without its first) to run one of our commands."""
    program = [word for word in words if word == "-m" or not word.startswith("-")]
    if program[:1] == ["-m"]:
        name = (program[1:2] or [""])[0]
        return name == "nemo_workflow" or name.rpartition(".")[0] in COMMAND_PACKAGES
    return program != [] and Path(program[0]).name in COMMANDS


def leave(*_: object) -> None:
    """On Ctrl-C while nothing has begun, or all is done: Python would show a traceback through its imports."""
    os._exit(130)


def _leave_an_old_python() -> None:
    """Go on in the .venv that `make install` has made, or say what is wanted. Written for the Python of an old system."""
    with open("/proc/self/cmdline", "rb") as stream:  # noqa: PTH123 - sys.orig_argv is new in 3.10
        words = [os.fsdecode(word) for word in stream.read().split(b"\0")[1:-1]]
    wanted = f"needs Python 3.11 or 3.12, and this is {sys.version.split()[0]}, {sys.executable}"
    if not is_a_command(words):
        raise ImportError(f"nemo_workflow {wanted}")
    python = REPOSITORY / ".venv" / "bin" / "python"
    if os.access(python, os.X_OK):
        os.execv(python, [str(python), *words])
    sys.stderr.write(f"error: {wanted}; type make install in {REPOSITORY}, with such a Python\n")
    sys.stderr.flush()
    os._exit(2)


if sys.version_info < (3, 11):  # noqa: UP036 - the python3 of many a system that we run on
    _leave_an_old_python()
if is_a_command(sys.orig_argv[1:]):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)  # until errors.run_command, which catches it
    # held back by who started it: Python shows a traceback of its own first imports
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
