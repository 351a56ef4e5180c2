"""Shell blocks of our pages, whose `python` is tests/preloaded.py's: the block is bash's, the commands are forked.

In the block's PATH a program `python` comes first. It hands its words, folder, variables and streams to the process that runs the
tests, and ends as the command does. A preprocessing, which imports no NeMo and forks workers of its own, is started from nothing.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from tests import forked, preloaded

PYTHON = """#!{python} -IS
import json, os, socket, sys
told = socket.socket(socket.AF_UNIX)
told.connect({place!r})
order = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(told, [b"%12d" % len(order)], [0, 1, 2])
told.sendall(order)
os._exit(int(told.recv(9)) & 255)
"""
OWN = "nemo_workflow.preprocess"


def run(block: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """As subprocess.run of bash -euc BLOCK, with its output kept; no exit code raises."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        python = Path(place) / "python"
        python.write_text(PYTHON.format(python=sys.executable, place=f"{place}/socket"), encoding="utf-8")
        python.chmod(0o755)
        listener.bind(f"{place}/socket")
        listener.listen()
        server = threading.Thread(target=_serve, args=(listener,), daemon=True)
        server.start()
        try:
            return subprocess.run(
                ["bash", "-euc", block], cwd=cwd, env={**env, "PATH": f"{place}{os.pathsep}{env['PATH']}"},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def _serve(listener: socket.socket) -> None:
    """Start what is asked for, and tell each one's end; returns when the block has ended."""
    while True:
        try:
            asked, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_follow, args=(asked,), daemon=True).start()


def _follow(asked: socket.socket) -> None:
    head, files, _, _ = socket.recv_fds(asked, 12, 3)
    data = b""
    while len(data) < int(head):
        data += asked.recv(1 << 16)
    words, cwd, variables = json.loads(data)
    with asked:
        streams = [os.fdopen(file, mode) for file, mode in zip(files, ("rb", "wb", "wb"), strict=True)]
        command = [sys.executable, *words]
        try:
            if any(word.startswith(OWN) for word in words[:2]):
                process: forked.Process = subprocess.Popen(command, -1, None, *streams, cwd=cwd, env=variables)
            else:
                process = preloaded.start(command, streams[1], streams[2], cwd, variables, streams[0])
        finally:
            for stream in streams:
                stream.close()  # or who reads them would never see their end
        asked.sendall(b"%d" % process.wait(forked.LIMIT))
