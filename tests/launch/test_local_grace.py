"""Ranks that were asked to stop have a grace time, which starts again when a save under way is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import forked

# a launcher with a "torchrun" and a "rank" that doesn't hear SIGTERM; the monitor is a stand-in that says what we want
LAUNCHER = """
import json, signal, subprocess, sys, time
from types import SimpleNamespace
from pathlib import Path
from nemo_workflow.config.settings import Settings
from nemo_workflow.launch import local as launch

saving, folder = sys.argv[1] != "in a step", Path(sys.argv[2])
if sys.argv[1] == "saving since before":  # NeMo's mark
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step_00000004-unfinished").touch()
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(1000)"
torchrun = subprocess.Popen(["bash", "-c", '"$0" -c "$1"; true', sys.executable, deaf], stdout=subprocess.PIPE, text=True)
assert torchrun.stdout.readline() == "ready\\n"
run = object.__new__(launch._Local)
run.plan = SimpleNamespace(settings=Settings(grace_seconds=1.0), accelerator="cpu", folder=folder)
run.monitor = SimpleNamespace(saving=sys.argv[1] == "saving", started=True, asked_after=None, note=print)
run.attempt, run.asked, run.insisted, run.launching, run.stopped_early = folder, None, False, False, ""
run.before, run.process, run.patience = set(), torchrun, launch.liveness.Patience()
run._ask(signal.SIGTERM, None)
asked = time.monotonic()
while torchrun.poll() is None and time.monotonic() - asked < (3 if saving else 600):
    run._stop_if_asked()
    time.sleep(0.05)
waited = time.monotonic() - asked
alive = torchrun.poll() is None
if alive:  # a second signal ends everything at once
    run._ask(signal.SIGTERM, None)
    run._stop_if_asked()
print(json.dumps({"alive": alive, "waited": waited, "gone": torchrun.wait(600) is not None}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["saving", "saving since before", "in a step"])
def test_a_deaf_rank_is_ended_after_the_grace_time_unless_it_saves(state: str, tmp_path: Path) -> None:
    done = forked.run(["-c", LAUNCHER, state, tmp_path])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["alive"] == (state != "in a step") and told["gone"]
    assert told["waited"] >= 1
