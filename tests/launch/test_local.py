"""The launcher's loop: when a run counts as hung, and that no error leaves a training unsupervised."""

from __future__ import annotations

import contextlib
import os
import pty
import py_compile
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.launch import local as launch
from nemo_workflow.run_dir import metrics as events
from nemo_workflow.run_dir.run import RunFolder, State
from nemo_workflow.training import liveness
from tests.e2e.run.harness import REPOSITORY
from tests.places import Place
from tests.run_dir.test_checkpoints import make
from tests.waiting import LIMIT, until


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A start whose ranks can't be ended: it would take pytest's own processes for them."""
    attempt = tmp_path / "attempts" / "1"
    attempt.mkdir(parents=True)
    plan = SimpleNamespace(folder=tmp_path, settings=Settings(timeout_minutes=30), accelerator="cpu", seq_length=64)
    monkeypatch.setattr(launch._Local, "_ranks", lambda self: [])
    monkeypatch.setattr(launch._Local, "_leave_nothing_running", lambda self: None)
    monkeypatch.setattr(liveness, "STACK_SECONDS", 0)
    return launch._Local(plan, attempt, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("hours", [-2, 2], ids=["clock put forward, or a sleep", "clock put back"])
def test_a_clock_that_is_set_is_no_hang(local: Any, hours: int) -> None:
    for path in (local.attempt / liveness.HEARTBEAT, local.plan.folder / events.FILE, local.attempt):
        path.touch()
        os.utime(path, (time.time() + 3600 * hours,) * 2)
    local._stop_if_hung()
    assert not local.hung


@pytest.mark.slow
def test_no_step_for_too_long_is_a_hang(local: Any) -> None:
    local.plan.settings.timeout_minutes = 2.5 / 60
    (local.attempt / liveness.HEARTBEAT).touch()
    local._stop_if_hung()
    (local.plan.folder / events.FILE).touch()
    os.utime(local.plan.folder / events.FILE, (time.time() + 3600,) * 2)  # of before the clock was put back
    for second in range(4):
        time.sleep(0.8)
        (local.attempt / liveness.HEARTBEAT).touch()
        local._stop_if_hung()
        assert not local.hung, second

    def found() -> str:
        local._stop_if_hung()
        return str(local.hung)

    until(found)
    assert "no step for" in local.hung


FROZEN = """
import sys, time
from pathlib import Path
from nemo_workflow.training import liveness
folder = Path(sys.argv[1])
silence, longest = liveness.Silence(folder, folder), 0.0
print("looking", flush=True)
for _ in range(6000):
    time.sleep(0.1)
    longest = max(longest, silence.seconds())
    if silence.seconds() > 1:
        (folder / liveness.HEARTBEAT).touch()  # a rank that makes a step a second, frozen and thawed with us
    if (folder / "enough").exists():
        break
print(longest)
"""


@pytest.mark.slow
def test_a_run_that_was_frozen_whole_is_no_hang(tmp_path: Path) -> None:
    """docker pause, scontrol suspend, a laptop's lid: the sleep of whoever looks counts nothing."""
    process = subprocess.Popen(
        [sys.executable, "-c", FROZEN, tmp_path], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout and process.stdout.readline() == "looking\n"
    time.sleep(1.5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(liveness.LATE_SECONDS + 3)
    process.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    (tmp_path / "enough").touch()
    assert float(process.communicate(timeout=LIMIT)[0]) < liveness.LATE_SECONDS


LAUNCHER = """
import os, subprocess, sys
from pathlib import Path
from tests.launch.stand_in import launcher

folder, error = Path(sys.argv[1]), sys.argv[2]
RANK = '''
import signal, sys, time
def stop(*_):
    open(sys.argv[1], "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(1000)
'''

def torchrun():
    words = ["bash", "-c", '"$0" -c "$1" "$2"; true', sys.executable, RANK, folder / "asked"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\\n"
    os.write(1, b"started")
    return process

def fails():
    raise ZeroDivisionError

local = launcher(folder, 9, torchrun, grace_seconds=20)
local.monitor.started, local.monitor.live = True, "a live line"
if error:
    local.monitor.update = fails
sys.exit(local.run())
"""


def start(folder: Path, stdout: int, error: str = "") -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "ignore", "-c", LAUNCHER, str(folder), error]
    return subprocess.Popen(words, cwd=REPOSITORY, text=True, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_an_error_in_the_loop_leaves_nothing_running(tmp_path: Path) -> None:
    process = start(tmp_path, subprocess.PIPE, "error")
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1 and "ZeroDivisionError" in errors
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed pipe", "terminal of an ssh that dropped"])
def test_a_console_that_is_gone_neither_stops_a_run_nor_keeps_it_from_stopping(tmp_path: Path, kind: str) -> None:
    ours, theirs = os.pipe() if kind == "closed pipe" else pty.openpty()
    process = start(tmp_path, theirs)
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"started")
    os.close(ours)
    with (tmp_path / events.FILE).open("a") as metrics:
        metrics.write('{"event": "note", "text": "nobody sees it"}\n')
    console = Path(f"/proc/{process.pid}/fd/1")
    until(lambda: process.poll() is not None or str(console.readlink()) == os.devnull)  # it notices
    time.sleep(0.5)
    assert process.poll() is None and not (tmp_path / "asked").exists()
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGHUP and errors == "", errors
    assert (tmp_path / "asked").exists()


def test_the_ranks_are_asked_before_anything_is_said(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal may have come in the middle of a line, which can't be broken."""
    sent = []
    monkeypatch.setattr(launch, "_send", lambda processes, number: sent.append(number))
    monkeypatch.setattr(local.monitor, "note", lambda text: sent.append(text))
    local._ask(signal.SIGTERM, None)
    assert sent == [signal.SIGTERM]
    local._tell_if_asked()
    local._tell_if_asked()
    assert sent[1:] == ["stopping: the ranks are still starting, there is nothing to save"]
    local.monitor.started, local.told = True, False
    local._tell_if_asked()
    assert sent[2:] == ["stopping: the ranks finish their step and save (once more to stop at once)"]


@pytest.mark.parametrize("held", [Exception, BaseException], ids=["Ctrl-C", "Ctrl-C twice"])
def test_a_start_that_is_asked_to_stop_does_not_wait_for_nemo_run(
    held: type[BaseException], local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its import and its start of torchrun take seconds on a busy machine, and nothing is there to be saved."""
    came: list[str] = []
    said: list[str] = []
    monkeypatch.setattr(local.monitor, "note", said.append)

    def started(*_: object) -> None:
        with contextlib.suppress(held):  # as libraries do
            signal.raise_signal(signal.SIGINT)
            came.append("went on")
        assert held is BaseException
        signal.raise_signal(signal.SIGINT)
        came.append("went on")

    monkeypatch.setattr(launch.ranks, "started", started)
    monkeypatch.setattr(launch, "Refresher", None)  # no report is written: none of its figures has changed
    monkeypatch.setitem(os.environ, liveness.LAUNCHER, "")
    assert local.run() == 130 and came == []
    assert said == [
        "stopped before the first step: no checkpoint yet; the same command starts again from the beginning"
    ]


def test_ctrl_c_while_a_start_is_prepared_is_told_as_later(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy of our code may take a while on a slow disk."""
    plan = place.plan()

    def interrupted(attempt: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "copy_code", interrupted)
    assert launch.run_local(plan) == 130
    said = "before the first step: no checkpoint yet; the same command starts again from the beginning"
    assert capsys.readouterr().out.splitlines()[-1] == f"stopped {said}"
    assert RunFolder(plan.folder).state == State("stopped", said.replace(":", " (Ctrl-C):", 1))


@pytest.mark.parametrize("trained", [False, True])
def test_a_start_has_longer_than_a_step(trained: bool, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk may keep the imports longer than --timeout-minutes; the first step ends the allowance."""
    local.plan.settings.timeout_minutes = 1e-9
    if trained:
        (local.attempt / liveness.HEARTBEAT).touch()
    local._stop_if_hung()
    assert local.hung == ("no step for 1e-09 min" if trained else "")
    monkeypatch.setattr(liveness, "START_SECONDS", 1e-9)
    local.silence.seconds()
    local._stop_if_hung()
    assert local.hung.startswith("no step for ")


def test_the_writer_of_the_last_report_is_not_taken_for_a_rank(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --max-restarts it may still be at work when the ranks start again."""
    monkeypatch.undo()
    monkeypatch.setattr(launch.ranks, "started", lambda *_: 1 / 0)
    monkeypatch.setitem(os.environ, liveness.LAUNCHER, "")
    writer = subprocess.Popen(["sleep", "1000"])
    with pytest.raises(ZeroDivisionError):
        local._start(local.attempt)
    assert writer.poll() is None and local._ranks() == [] and local._alive() == []
    left = subprocess.Popen(["sleep", "1000"])  # a rank that has lost torchrun
    assert [process.pid for process in local._alive()] == [left.pid]
    for process in (writer, left):
        process.kill()
        process.wait()


def test_a_launcher_that_was_frozen_gives_the_ranks_their_grace_time(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a stand-in: docker pause, scontrol suspend, a laptop's lid, a machine too busy to look."""
    now, ended = [100.0], []
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(local, "_stop_at_once", ended.append)
    local.plan.settings.grace_seconds = 8.0
    local.monitor.started = True
    local._ask(signal.SIGTERM, None)
    for seconds, ends in ((1, False), (60, False), (4, False), (3, False), (3, True)):
        now[0] += seconds
        local._stop_if_asked()
        assert bool(ended) == ends, now


def test_the_ranks_code_comes_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "one.py").write_text("number = 1\n")
    py_compile.compile(str(package / "one.py"))
    compiled = next((package / "__pycache__").iterdir())
    compiled.with_name(f"{compiled.name}.1407").touch()  # Python writes it under such a name first
    monkeypatch.setattr(launch, "PACKAGE", package)
    launch.copy_code(tmp_path / "attempt")
    copy = tmp_path / "attempt" / "code" / "package"
    assert [path.name for path in (copy / "__pycache__").iterdir()] == [compiled.name]
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); import one; print(one.__cached__)"
    done = subprocess.run([sys.executable, "-v", "-c", code], capture_output=True, text=True, check=True)
    assert f"{copy / '__pycache__' / compiled.name} matches" in done.stderr


@pytest.mark.parametrize("gone", ["4913", "one.py"])
def test_what_an_editor_takes_away_meanwhile_is_not_missed(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is made: a file that was listed and has gone."""
    package, copy, real = tmp_path / "package", tmp_path / "attempt" / "code" / "package", shutil.copy2
    package.mkdir()
    for name in ("one.py", "4913"):  # the latter is what vim tries a folder with
        (package / name).touch()
    (package / ".#one.py").symlink_to("me@here.1407")  # Emacs's lock

    def late(source: str, target: str) -> None:
        (package / gone).unlink(missing_ok=True)
        real(source, target)

    monkeypatch.setattr(launch, "PACKAGE", package)
    monkeypatch.setattr(shutil, "copy2", late)
    with pytest.raises(shutil.Error) if gone == "one.py" else contextlib.nullcontext():
        launch.copy_code(tmp_path / "attempt")
    assert {path.name for path in copy.iterdir()} == {"one.py", "4913"} - {gone}


@pytest.mark.parametrize(
    ("asked_after", "saved", "end", "said", "code"),
    [
        (None, 4, "", "stopped in the middle of a step: step 4 is saved, step 5 is not", 143),
        (5, 5, "", "stopped: step 5 is saved", 143),  # killed before it wrote its end
        (5, 5, "stopped", "stopped: step 5 is saved", 143),  # a rank was slow to leave
        (5, 4, "", "stopped in the middle of a step: step 4 is saved, step 5 is not", 143),
        (None, 5, "finished", "", 0),
    ],
)
def test_the_end_is_told_from_what_is_saved(
    local: Any, asked_after: int | None, saved: int, end: str, said: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from whether the ranks left in time: a busy machine lets a rank that has saved take longer than its grace."""
    make(local.plan.folder / "checkpoints", saved)
    told: list[str] = []
    monkeypatch.setattr(local.monitor, "note", told.append)
    local.asked, local.stopped_early = signal.SIGTERM, " in the middle of a step"
    local.monitor.started, local.monitor.last_step, local.monitor.end = True, 5, end
    local.monitor.asked_after = asked_after
    assert local._verdict() == code
    assert [text.partition(";")[0] for text in told] == ([said] if said else [])


@pytest.mark.parametrize("more", ["export_hf", "sample"])
def test_a_stop_in_the_last_step_stops_what_would_follow(
    local: Any, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(local.plan.folder / "checkpoints", 5)
    told: list[str] = []
    monkeypatch.setattr(local.monitor, "note", told.append)
    setattr(local.plan.settings, more, "end")
    local.asked, local.monitor.started, local.monitor.last_step, local.monitor.end = signal.SIGINT, True, 5, "finished"
    assert local._verdict() == 130
    assert told == ["stopped: the training is done; the same command exports its model"]
    local.asked = None
    assert local._verdict() == 0
