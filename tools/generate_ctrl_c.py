"""`python -m tools.generate_ctrl_c`: the line that takes Ctrl-C while Python itself starts one of our commands.

`make install` puts it beside the environment's packages, where Python reads it before any module of ours: so it can't ask
nemo_workflow.is_a_command, and does the same with the names in it.
"""

from __future__ import annotations

from nemo_workflow import COMMAND_PACKAGES, COMMANDS, REPOSITORY

FILE = REPOSITORY / "tools" / "ctrl_c.pth"


def text() -> str:
    """One line: of a .pth file Python runs each line that begins with `import`."""
    named = f"(_words[1] == 'nemo_workflow' or _words[1].rpartition('.')[0] in {COMMAND_PACKAGES!r})"
    module = f"_words[0] == '-m' and {named}"
    script = f"os.path.basename(_words[0]) in {COMMANDS!r}"
    return (
        "import _signal; _words = ([word for word in sys.orig_argv[1:] if word == '-m' or word[:1] != '-'] + ['', ''])[:2];"
        f" ({module} or {script}) and _signal.getsignal(2) is _signal.default_int_handler"
        " and _signal.signal(2, lambda *_: os._exit(130))\n"
    )


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
