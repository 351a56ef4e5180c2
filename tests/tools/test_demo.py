"""A signal to the demo alone ends what it has started, and then the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_workflow import REPOSITORY
from tests.waiting import LIMIT, until

# a command as the demo runs them: a shell that starts a Python, which saves when it is asked to stop
COMMAND = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def stop(number, frame):
    time.sleep(1)
    (folder / "saved").write_text(signal.Signals(number).name)
    sys.exit(3)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
(folder / "ready").touch()
time.sleep(1000)
"""
DEMO = """
import signal, sys
from tools import demo
from nemo_workflow.utils.errors import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)
run_command(lambda: demo.run(["bash", "-c", '"$0" -c "$1" "$2"; exit $?', *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_demo_ends_with_what_it_has_started(number: signal.Signals, code: int, tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, sys.executable, COMMAND, str(tmp_path)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "ready").exists() and demo.poll() is None:
        time.sleep(0.05)
    demo.send_signal(number)
    output, _ = demo.communicate()
    assert demo.returncode == code, output
    assert (tmp_path / "saved").read_text() == number.name  # it had its time, and was asked once
    assert "stopping what runs, then the demo" in output


OWN_STEP = """
import signal, sys, time
from pathlib import Path
from tools import demo
from nemo_workflow.utils.errors import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)
def learn(corpus):
    Path("ready").touch()
    time.sleep(1000)
demo.write_corpus = learn
sys.argv = ["demo"]
run_command(demo.main)
"""


@pytest.mark.slow
def test_ctrl_c_in_a_step_of_its_own_is_told(tmp_path: Path) -> None:
    words, env = [sys.executable, "-c", OWN_STEP], {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        until((tmp_path / "ready").exists)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert said == "stopped by Ctrl-C: make demo goes on with what is not done\n"
