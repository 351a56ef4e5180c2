"""What stands on a real terminal (a pty, drawn by a terminal emulator) and in a log while a run trains."""

from __future__ import annotations

import ast
import os
import pty
import re
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from types import SimpleNamespace

import pyte
import pytest

from nemo_workflow import PACKAGE
from nemo_workflow.launch import monitor
from nemo_workflow.run_dir import metrics
from nemo_workflow.utils.console import human_count
from tests.runs import fake_runs

FOLLOW = """
import sys
from pathlib import Path
from nemo_workflow.launch.monitor import Monitor
from nemo_workflow.config.plan import Plan
from tests.runs import fake_runs
plan = Plan.from_json((Path(sys.argv[1]) / "plan.json").read_text())
plan.settings.log_every = 10
monitor = Monitor(plan)
monitor.update()
time = fake_runs.BEGAN
happened = fake_runs.history(plan, 37, first=26)
happened[6:6] = [
    {"event": "note", "time": 0, "text": "a note of the worker"},
    {"event": "nonfinite", "time": 0, "step": 31, "ranks": [0], "samples": {}, "skipped": 1},
    {"event": "note", "time": 0, "text": "step 31: a gradient is NaN or infinite on rank 0; step left out"},
    {"event": "spike", "time": 0, "step": 31, "loss": 9.0, "usual": 4.0},
    {"event": "save_failed", "time": 0, "step": 31, "reason": "no space left"},
    {"event": "note", "time": 0, "text": "checkpoint could not be saved: no space left"},
]
if sys.argv[2:] == ["to the end"]:
    happened = fake_runs.history(plan, 100, first=26)
    happened.append(fake_runs.end_event(100, happened[-1]["time"]))
for event in happened:
    fake_runs.append(plan, [event])
    monitor.update()
monitor.close()
"""
LASTING = (
    "resuming after step 25 of 100, on the CPU, 2 processes",
    "a note of the worker",
    "step 31: a gradient is NaN or infinite on rank 0; step left out",
    "step 31: warning: loss 9.0000, far above the usual 4.0000",
    "checkpoint could not be saved: no space left",
)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    fake_runs.write_run(tmp_path / "demo", upto=25, reason="stopped")
    return tmp_path / "demo"


def on_terminal(run_folder: Path, columns: int, *words: str) -> list[str]:
    """The lines of a terminal `columns` wide after the monitor has followed a run."""
    screen = pyte.Screen(columns, 60)
    stream = pyte.ByteStream(screen)
    leader, follower = pty.openpty()
    ioctl(follower, TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    command = [sys.executable, "-c", FOLLOW, str(run_folder), *words]
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stdout=follower, env=environment) as process:
        os.close(follower)
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            stream.feed(data)
    assert process.returncode == 0
    os.close(leader)
    return [line.rstrip() for line in screen.display if line.strip()]


def test_the_live_line_has_everything_and_stands_below_what_lasts(run_folder: Path) -> None:
    lines = on_terminal(run_folder, 160)
    expected = (
        r"step 37/100  loss \d\.\d{4}  val \d\.\d{4}  grad norm 1\.25  lr 0\.001  [\d.]+k tokens/s  1\.2 GiB  .*left"
    )
    assert re.fullmatch(expected, lines[-1]), lines
    assert lines[:-1] == list(LASTING)  # each once, and no live line left between them


def test_a_narrow_terminal_keeps_step_and_time_left(run_folder: Path) -> None:
    lines = on_terminal(run_folder, 50)
    assert re.fullmatch(r"step 37/100  loss \d\.\d{4}.* left", lines[-1]) and len(lines[-1]) < 50


def test_a_finished_run_leaves_its_last_step_and_the_word(run_folder: Path) -> None:
    lines = on_terminal(run_folder, 160, "to the end")
    assert sum("step 100/100" in line for line in lines) == 1 and "step 100/100" in lines[-2]
    assert lines[-1] == "finished after step 100"
    assert sum("checkpoint saved" in line for line in lines) == 3
    assert sum("validation loss" in line for line in lines) == 3


def test_a_log_has_one_plain_line_each_log_every_and_one_of_the_second_step(run_folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FOLLOW, str(run_folder)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    steps = [line for line in lines if re.match(r"step \d+/100  loss", line)]
    assert [line for line in lines if line not in steps] == list(LASTING)
    assert [line.split("/")[0] for line in steps] == ["step 27", "step 30"] and done.stderr == ""
    assert all(re.search(r"tokens/s .* left$", line) for line in steps)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monitor's time, which stands still until a test sets it."""
    now = [1000.0]
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_log_says_what_a_slow_start_waits_for(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a CPU, where a first step may take minutes: no more than 20 s without a word, then one a minute."""
    plan = fake_runs.make_plan(tmp_path / "slow", steps=100, every=50)
    plan.settings.log_every = 50
    plan.folder.mkdir(parents=True, exist_ok=True)
    follower = monitor.Monitor(plan)

    def said(at: float, *events: dict[str, object]) -> str:
        clock[0] = 1000.0 + at
        fake_runs.append(plan, list(events))
        follower.update()
        return capsys.readouterr().out

    begin, *steps = fake_runs.history(plan, 4)
    steps = [event for event in steps if event["event"] == "step"]
    assert said(19) == ""
    assert said(21) == "the ranks start: they import NeMo and build the model (21 s so far)\n"
    assert said(39) == ""
    assert "(41 s so far)" in said(41)
    assert said(90, begin) == "starting: 100 steps, on the CPU, 2 processes\n"
    assert said(109) == ""
    tokens = human_count(plan.settings.global_batch_size * plan.seq_length)
    samples = plan.settings.global_batch_size
    assert said(111) == f"the first step: {samples} samples, {tokens} tokens (21 s so far)\n"
    first = said(130, steps[0])
    assert first.startswith("step 1/100  loss") and "tokens/s" in first and "left" not in first
    assert re.match(r"step 2/100  loss .* tokens/s .* left\n", said(131, steps[1]))
    assert said(140, steps[2]) == ""
    assert said(160, steps[3]).startswith("step 4/100")  # after 20 s without a line


def test_the_line_that_stays_has_the_last_validations_loss(tmp_path: Path) -> None:
    """The last step is drawn before its validation is there; the line said the loss of the one before."""
    plan = fake_runs.make_plan(tmp_path / "done", steps=2, every=1)
    plan.folder.mkdir(parents=True, exist_ok=True)
    follower, shown = monitor.Monitor(plan), []
    follower.meter = SimpleNamespace(
        live=True,
        columns=100,
        show=lambda text, always=False: shown.append(text),
        note=lambda text: None,
        close=lambda: None,
    )  # type: ignore[assignment] - a terminal's
    step = fake_runs.step_event(plan, 2, 10.0, 4.0)
    events = [step, {"event": "validation", "time": 11.0, "step": 2, "val_loss": 3.125}, fake_runs.end_event(2, 12.0)]
    fake_runs.append(plan, events)
    follower.update()
    assert "val 3.125" in shown[-1] and shown[-1].startswith("step 2/2")
    again = [fake_runs.step_event(plan, 3, 13.0, 4.0), fake_runs.end_event(3, 14.0)]
    fake_runs.append(plan, again)
    follower.update()
    assert "val" in shown[-2] and "val" not in shown[-1] and shown[-1].startswith("step 3/2")  # no older step's


def kinds_written() -> set[str]:
    """First arguments of every `….event("kind", …)` in the package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event":
                # the launcher's names the file first
                texts = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                found |= set(texts[:1])
    return found


def test_every_kind_of_event_is_shown_or_said_by_a_note() -> None:
    assert kinds_written() == {"step", *metrics._LINES, *metrics.SAID_BY_A_NOTE}


def test_time_left_counts_validations_and_saves(tmp_path: Path) -> None:
    from nemo_workflow.launch.monitor import TimeLeft

    plan = fake_runs.make_plan(tmp_path / "x", steps=200, every=10)
    happened = fake_runs.history(plan, 200)
    estimate, left = TimeLeft(), {}
    for event in happened:
        if event["event"] == "step":
            left[event["step"]] = estimate.after(event, 200)
    at = next(e["time"] for e in happened if e.get("step") == 100 and e["event"] == "step")
    assert left[100] == pytest.approx(happened[-1]["time"] - at, rel=0.1)
    assert left[200] == 0


def test_time_left_does_not_count_the_first_steps_compilation() -> None:
    from nemo_workflow.launch.monitor import TimeLeft

    estimate = TimeLeft()
    assert estimate.after({"step": 1, "seconds": 40.0, "time": 1000.0}, 101) is None
    assert estimate.after({"step": 2, "seconds": 2.0, "time": 1002.0}, 101) == pytest.approx(198)
    assert estimate.after({"step": 3, "seconds": 2.0, "time": 1006.0}, 101) == pytest.approx(98 * 3)


@pytest.mark.parametrize(("number", "name"), [(2, "Ctrl-C"), (15, "SIGTERM"), (10, "SIGUSR1"), (1, "SIGHUP")])
def test_a_stop_is_called_what_the_user_knows_it_as(number: int, name: str) -> None:
    line = metrics.plain({"event": "stopping", "step": 14, "signal": number}, 60, 1)
    assert line == f"step 14: asked to stop ({name}); saving a checkpoint"
