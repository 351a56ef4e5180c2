"""What a terminal shows of a command's output, as lines and as an SVG that needs no font and no network."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 110
ROWS = 50
CLEARED = "\r\x1b[K"  # how utils/console.py draws its live line again
FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


def record(command: Sequence[str], cwd: Path, seen: Callable[[list[str]], None]) -> int:
    """Run a command on a terminal of its own and return its exit code; `seen` gets the screen's lines after each output."""
    terminal, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(command, cwd=cwd, stdin=ours, stdout=ours, stderr=ours)
    os.close(ours)
    output = b""
    while True:
        try:
            found = os.read(terminal, 65536)
        except OSError:  # Linux says so where the last writer has closed
            found = b""
        if not found:
            break
        output += found
        seen(screen(output.decode("utf-8", errors="ignore")))
    os.close(terminal)
    return process.wait()


def screen(output: str) -> list[str]:
    """The lines that stand on the terminal after `output`: of a line that was drawn again, the last drawing."""
    lines = output.replace("\r\n", "\n").split("\n")
    shown = [line.rpartition(CLEARED)[2].rstrip("\r") for line in lines]
    return shown[:-1] if not shown[-1] else shown


def svg(command: str, lines: Sequence[str], title: str) -> str:
    """A picture of a terminal with a command and its output; longer lines go on in the next, as on a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in [f"$ {command}", *lines]:
        for begin in range(0, max(1, len(line)), COLUMNS):
            console.print(Text(line[begin : begin + COLUMNS], style="bold green" if line[:2] == "$ " else ""))
    picture = console.export_svg(title=title, unique_id="terminal")
    picture = re.sub(r"@font-face\s*\{.*?\}\s*", "", picture, flags=re.DOTALL)
    return picture.replace("Fira Code, monospace", FONTS) + "\n"


def words_of(picture: str) -> str:
    """The text of such a picture, for who looks for words in it."""
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture)).replace("&#160;", " ")
