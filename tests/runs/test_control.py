"""`runs status|logs|cancel` on a run of this machine; its launcher is stood in for by a process that holds the lock."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_workflow.runs import control
from nemo_workflow.training import liveness
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.launch.slurm import plans
from tests.waiting import LIMIT

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = """
import signal, sys, threading
from pathlib import Path
from nemo_workflow.training import liveness as watch
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
lock = watch.lock_run(Path(sys.argv[1]))
print("ready", flush=True)
asked.wait()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    log = folder / "attempts" / "20260102-030405" / "launcher" / "train" / "stdout.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 3/20  loss 1.0\n")
    plan = dataclasses.replace(plans.plan("cpu"), run_dir=str(folder))
    (folder / "plan.json").write_text(plan.to_json())
    step = {"event": "step", "time": 0, "step": 3, "loss": 1.5, "lr": 0.1, "grad_norm": 1.0, "seconds": 0.1,
            "tokens_per_second": 10.0, "memory_bytes": 1}  # fmt: skip
    (folder / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    return folder


@pytest.fixture
def launcher(run: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", LAUNCHER, str(run)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def call(run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["-m", "nemo_workflow.runs", "--output-dir", run.parent, *words], timeout=LIMIT)


def test_status_logs_and_cancel(run: Path, launcher: subprocess.Popen[str]) -> None:
    assert control.holder(run) == launcher.pid
    status = call(run, "status", "local")
    assert f"running on this machine, process {launcher.pid}" in status.stdout
    assert "step 3/1  loss 1.5000" in status.stdout
    assert call(run, "logs", "local").stdout == "step 3/20  loss 1.0\n"
    done = call(run, "cancel", "local")
    assert done.returncode == 0, done
    assert f"process {launcher.pid} ended\nlocal: no checkpoint was saved\n" == done.stdout
    assert launcher.wait(LIMIT) == 0


def test_status_says_of_a_run_that_is_being_ended_what_list_says(run: Path, launcher: subprocess.Popen[str]) -> None:
    (run / "attempts" / "20260102-030405" / "rank1.error").write_text(
        "1780000000.5\nRuntimeError: [gloo] Connection closed by peer\n"
    )
    said = "a rank was lost: its launcher is ending the others"
    assert f"failed on this machine, process {launcher.pid}: {said}" in call(run, "status", "local").stdout
    assert said in call(run, "list").stdout


def test_nothing_runs(run: Path) -> None:
    (run / liveness.RUN_LOCK).touch()
    assert control.holder(run) is None
    assert "killed: ended from outside: no checkpoint yet" in call(run, "status", "local").stdout
    done = call(run, "cancel", "local")
    assert (done.returncode, "nothing to cancel" in done.stderr) == (2, True)
    done = call(run, "logs", "local", "--rank", "7")
    assert (done.returncode, "--rank 7: local has ranks 0 to 1; use one of them" in done.stderr) == (2, True), (
        done.stderr
    )
    done = call(run, "logs", "local", "--rank", "0")
    assert (done.returncode, "rank 0 has no log yet (killed ended from outside" in done.stderr) == (1, True), (
        done.stderr
    )
    (run / "attempts" / "20260102-030405" / "rank0.log").touch()  # of a rank that was ended before it said a word
    done = call(run, "logs", "local", "--rank", "0")
    assert (done.returncode, "rank 0 has no log yet" in done.stderr) == (1, True), done


def test_logs_leave_torchruns_copy_out(run: Path) -> None:
    own = run / "attempts" / "20260102-030405" / "launcher" / "torchelastic" / "0" / "stdout.log"
    own.parent.mkdir(parents=True)
    own.write_text("step 3/20  loss 1.0\n")
    (run / "attempts" / "20260102-030405" / "launcher" / "train" / "stdout.log").write_text("[default0]:step 3/20\n")
    assert call(run, "logs", "local").stdout == "step 3/20  loss 1.0\n"
    (run / "attempts" / "20260101-000000").mkdir()
    assert (
        f"note: of the last of 2 starts; the others' logs are in {run / 'attempts'}"
        in call(run, "logs", "local").stderr
    )


def test_an_unknown_run_is_refused_with_those_that_are_there(run: Path) -> None:
    with pytest.raises(Refusal, match="there are: local"):
        control.find_run(str(run.parent), "other")
    with pytest.raises(Refusal, match="none: no such folder; give the one that the runs were started with"):
        control.find_run(str(run.parent / "none"), "other")
    with pytest.raises(Refusal, match=r"^a/b: no such folder"):
        control.find_run(str(run.parent), "a/b")


def test_a_run_is_found_by_its_path_from_here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell completes it, also from within --output-dir."""
    monkeypatch.chdir(run.parents[1])
    for named in (f"{run.parent.name}/{run.name}", f"{run.parent.name}/{run.name}/"):
        assert control.find_run("nemo_experiments", named) == control.find_run(run.parent.name, named) == run
    monkeypatch.chdir(run.parent)
    assert control.find_run("nemo_experiments", f"./{run.name}") == run
    with pytest.raises(Refusal, match=r"^local/attempts: no run in this folder"):
        control.find_run("nemo_experiments", "local/attempts")


def test_a_run_is_found_though_another_folder_here_has_its_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the quick start, which calls the texts and the run alike."""
    monkeypatch.chdir(run.parent.parent)
    texts = Path(run.name)
    texts.mkdir()
    assert control.run_folder(texts, run.parent.name).samefile(run)
    assert control.run_folder(run) == run
    (Path("other") / "text").mkdir(parents=True)
    assert control.run_folder(Path("other"), run.parent.name) == Path("other")  # whose refusal is another


def test_a_copy_is_a_run_of_its_own(
    run: Path, launcher: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shown is its own, what goes on is it, and the run that it was copied from is left alone; so it is of one that was moved."""
    shutil.copytree(run, copy := tmp_path / "backup")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write((run / "metrics.jsonl").read_text().replace('"step": 3', '"step": 17'))
    assert "step 17/" in call(run, "status", "local").stdout
    assert "step 3/" in call(run, "status", "backup").stdout
    refused = call(run, "cancel", "backup")
    assert (refused.returncode, f"backup: a copy of {run}, where the run itself is: python -m" in refused.stderr) == (
        2,
        True,
    )
    assert launcher.poll() is None
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    for folder, more in ((run, []), (copy, ["--experiment", "backup", "--output-dir", str(tmp_path)])):
        control._resubmit(argparse.Namespace(output_dir=str(tmp_path), name=folder.name, flags=["--max-steps", "30"]))
        assert started.pop()[2:] == ["--config", str(folder / "config.yaml"), *more, "--max-steps", "30"]


BUSY = """
import signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
time.sleep(2)  # as on a busy machine: what comes meanwhile comes as one
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
while len(told) < 2:
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_a_busy_launcher_hears_twice_that_it_shall_end_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout and launcher.stdout.readline() == "ready\n"
    monkeypatch.setattr(control, "holder", lambda run: launcher.pid if launcher.poll() is None else None)
    monkeypatch.setattr(control, "ENDED_BY_LOCAL_CANCEL", LIMIT)
    control._stop_local(tmp_path, launcher.pid, at_once=True)
    assert launcher.wait() == 0


@pytest.mark.slow
def test_a_launcher_whose_ranks_save_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = subprocess.Popen(["sleep", "2"], stdout=subprocess.PIPE)
    monkeypatch.setattr(control.os, "kill", lambda pid, number: None)  # it saves before it ends
    monkeypatch.setattr(control, "holder", lambda run: launcher.pid if launcher.poll() is None else None)
    monkeypatch.setattr(control, "ENDED_BY_LOCAL_CANCEL", 0.5)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000004-unfinished").touch()  # NeMo's mark
    control._stop_local(tmp_path, launcher.pid, at_once=False)
    assert launcher.wait() == 0
