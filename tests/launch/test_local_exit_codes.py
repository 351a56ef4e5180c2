"""The exit code and the last word of every way in which a start on this machine can end.

torchrun and its rank are stand-ins (stand_in.py) that end in a second in the way asked for.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.run_dir import starting
from nemo_workflow.run_dir.stopping import SIGNAL, grace_seconds
from tests import forked
from tests.e2e.run.harness import processes_of

LAUNCHER = """
import subprocess, sys
from pathlib import Path
from tests.launch.stand_in import launcher
from nemo_workflow.utils.errors import run_command

folder, way, grace = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

RANK = '''
import json, os, signal, sys, time
from pathlib import Path
folder, way = Path(sys.argv[1]), sys.argv[2]

def event(kind, **values):
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"event": kind, "time": time.time(), **values}) + chr(10))

def step(number):
    event("step", step=number, loss=1.0, grad_norm=1.0, lr=1.0, tokens_per_second=1.0, memory_bytes=1, seconds=0.1)

def stop(number, frame):
    event("stopping", step=2, signal=int(number))
    event("end", step=2, reason="stopped")
    os._exit(75)

if way == "torchrun is killed at once":
    os.kill(os.getppid(), signal.SIGKILL)
    if os.fork():
        os._exit(0)  # and what a rank has forked lives on alone
    time.sleep(1000)  # it imports NeMo, and looks at nothing yet

signal.signal(signal.SIGTERM, signal.SIG_IGN if way in ("deaf", "deaf at the start") else stop)
if way != "deaf at the start":
    event("start", step=0, max_steps=3)
    step(1)
    step(2)
(folder / "ready").touch()
if way == "trains":
    step(3)
    event("end", step=3, reason="finished")
    sys.exit(0)
if way == "leaves":
    sys.exit(0)
if way == "fails":
    (folder / "rank0.error").write_text(f"{time.time()}" + chr(10) + "ValueError: what the rank says")
    sys.exit(1)
if way == "fails at its end":
    event("end", step=3, reason="finished")
    sys.exit(1)
if way == "torchrun is killed":
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit(1)  # a rank leaves when its parent has died
if way == "a rank is asked":
    os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1000)
'''

def torchrun():
    first = "sleep 0.7; " if way == "torchrun is killed at once" else ""  # between two looks at the processes
    return subprocess.Popen(["bash", "-c", first + '"$0" -c "$1" "$2" "$3"; exit $?', sys.executable, RANK, str(folder), way])

run_command(launcher(folder, 3, torchrun, grace_seconds=float(grace), log_every=1).run, "pretrain_llm.py")
"""

LOST = "no checkpoint yet, so steps 1 to 2 are lost"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "grace", "send", "code", "word"),
    [
        ("trains", 60, [], 0, "finished after step 3"),
        ("saves", 60, [signal.SIGINT], 130, f"stopped: {LOST}"),
        ("saves", 60, [signal.SIGTERM], 143, "stopped: "),
        ("saves", 60, [signal.SIGHUP], 129, "stopped: "),
        ("saves", 60, [signal.SIGUSR1], 138, "stopped: "),
        ("deaf", 1, [signal.SIGINT], 130, f"stopped in the middle of a step, which did not end within 1 s (--grace-seconds): {LOST}"),
        ("deaf", 1, [signal.SIGTERM], 143, "in the middle of a step"),
        ("deaf", 1, [signal.SIGHUP, signal.SIGHUP], 129, "which did not end within 1 s"),  # a closed terminal
        ("deaf", 60, [signal.SIGINT, signal.SIGINT], 130, f"stopped at once, in the middle of a step: {LOST}"),
        ("deaf", 60, [signal.SIGINT, signal.SIGTERM], 130, "stopped at once"),
        ("deaf at the start", 60, [signal.SIGINT], 130, "stopped before the first step: no checkpoint yet; the same command starts again from the beginning"),
        ("deaf at the start", 60, [signal.SIGINT, signal.SIGINT], 130, "stopped before the first step: no checkpoint yet; the same command starts again from the beginning"),
        ("a rank is asked", 60, [], 143, f"stopped: {LOST}"),
        ("fails", 60, [], 1, "ValueError: what the rank says"),
        ("fails at its end", 60, [], 1, "pretrain_llm.py: failed: "),
        ("leaves", 60, [], 1, "the ranks ended without an error before the last step"),
        ("torchrun is killed", 60, [], 1, "torchrun, which runs the ranks, was ended by SIGKILL"),
        ("torchrun is killed at once", 60, [], 1, "torchrun, which runs the ranks, was ended by SIGKILL"),
    ],
)  # fmt: skip
def test_every_end(way: str, grace: int, send: list[int], code: int, word: str, tmp_path: Path) -> None:
    said = tmp_path / "said"  # not a pipe: whoever is left behind would hold it open
    with said.open("w") as stream:
        process = forked.start(["-c", LAUNCHER, tmp_path, way, grace], stream, stream)
    for number, sign in zip(send, ("ready", SIGNAL), strict=False):  # the second when the first has been taken
        while not (tmp_path / sign).exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
    process.wait()
    output = said.read_text()
    assert (process.returncode, word in output) == (code, True), output
    assert processes_of(tmp_path) == []
    told = starting.failure_of(tmp_path)  # by then, for who looks while the report is written
    assert bool(told) == (code == 1) and told in output.replace("rank 0:\n", "rank 0: ")


def test_the_grace_time_follows_the_steps(tmp_path: Path) -> None:
    from types import SimpleNamespace

    plan = SimpleNamespace(folder=tmp_path, settings=Settings(), accelerator="cpu")
    assert grace_seconds(plan) == 8  # type: ignore[arg-type]
    with (tmp_path / "metrics.jsonl").open("w") as stream:
        for seconds in (0.5, 35.0):
            stream.write(json.dumps({"event": "step", "time": 0, "step": 1, "seconds": seconds}) + "\n")
            stream.flush()
            assert grace_seconds(plan) == max(8, 2 * seconds)  # type: ignore[arg-type]
    plan.settings.grace_seconds = 3
    assert grace_seconds(plan) == 3  # type: ignore[arg-type]  # the user's word
