#!/usr/bin/env python3
"""A stand-in for Apptainer, which no package registry of ours has: it runs the command here, in no container.

It takes the words that Apptainer 1.4 takes and refuses others; an image is a file of NAME=VALUE, what the image sets. As
there, PATH is the image's, any other variable of the caller's wins over the image's, APPTAINERENV_NAME wins over both; folders
that are bound must exist; a signal to this process is handed on to the command, whose exit code is this one's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

FLAGS = ("--nv",)
WITH_VALUE = ("--bind", "--pwd")


def main(words: list[str]) -> int:
    with Path(os.environ["APPTAINER_LOG"]).open("a", encoding="utf-8") as stream:
        stream.write(" ".join(words) + "\n")
    command, *rest = words
    if command == "--version":
        print("apptainer version 1.4.0-stand-in")
        return 0
    if command == "pull":
        _, target, source = rest  # --force TARGET SOURCE
        if "missing" in source:
            return 255
        Path(target).write_text(os.environ.get("IMAGE_SETS", ""), encoding="utf-8")
        return 0
    assert command == "exec", command
    options, (image, *inner) = parsed(rest)
    for bind in options["--bind"]:
        assert Path(bind.split(":")[0]).exists(), f"mount source {bind} doesn't exist"
    assert Path(image).is_file(), f"could not open image {image}: no such file or directory"
    os.chdir(options["--pwd"][0])
    process = subprocess.Popen(inner, env=environment(Path(image)))
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    return process.wait()


def parsed(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The options, and what comes after them."""
    options: dict[str, list[str]] = {name: [] for name in WITH_VALUE}
    while words[0].startswith("-"):
        name = words.pop(0)
        assert name in FLAGS or name in WITH_VALUE, f"unknown flag: {name}"
        if name in WITH_VALUE:
            options[name].append(words.pop(0))
    return options, words


def environment(image: Path) -> dict[str, str]:
    """What the command finds."""
    sets = dict(line.split("=", 1) for line in image.read_text(encoding="utf-8").splitlines())
    found = sets | {name: value for name, value in os.environ.items() if name != "PATH" or "PATH" not in sets}
    for name in [name for name in found if name.startswith("APPTAINERENV_")]:
        found[name.removeprefix("APPTAINERENV_")] = found.pop(name)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
