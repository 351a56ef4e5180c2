"""Ranks that were asked to stop have a grace time; only a save under way may last longer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.run.harness import REPOSITORY

# a launcher with a "torchrun" and a "rank" that doesn't hear SIGTERM; the monitor is a stand-in that says what we want
LAUNCHER = """
import json, signal, subprocess, sys, time
from types import SimpleNamespace
from nemo_workflow import launch

saving = sys.argv[1] == "saving"
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(1000)"
torchrun = subprocess.Popen(["bash", "-c", '"$0" -c "$1"; true', sys.executable, deaf], stdout=subprocess.PIPE, text=True)
assert torchrun.stdout.readline() == "ready\\n"
run = object.__new__(launch._Local)
run.plan = SimpleNamespace(settings={"grace_seconds": 1.0}, accelerator="cpu")
run.monitor = SimpleNamespace(saving=saving, started=True, note=print)
run.asked, run.insisted, run.seen = None, False, set()
run._ask(signal.SIGTERM, None)
asked = time.monotonic()
while torchrun.poll() is None and time.monotonic() - asked < (3 if saving else 60):
    run._stop_if_asked()
    time.sleep(0.05)
waited = time.monotonic() - asked
alive = torchrun.poll() is None
if alive:  # a second signal ends everything at once
    run._ask(signal.SIGTERM, None)
    run._stop_if_asked()
print(json.dumps({"alive": alive, "waited": waited, "gone": torchrun.wait(10) is not None}))
"""


@pytest.mark.parametrize("state", ["saving", "in a step"])
def test_a_deaf_rank_is_ended_after_the_grace_time_unless_it_saves(state: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, state], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["alive"] == (state == "saving") and told["gone"]
    assert told["waited"] >= 1
