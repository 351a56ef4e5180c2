"""`python -m nemo_workflow.runs list|show|report|compare` on generated run folders."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from nemo_workflow.launch import local
from nemo_workflow.run_dir import metrics, starting, stopping
from nemo_workflow.run_dir.export_process import event
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs import control, overview
from nemo_workflow.runs.__main__ import main
from nemo_workflow.runs.report import page
from nemo_workflow.runs.report.page import state_shown, write_report
from nemo_workflow.utils.errors import run_command
from tests import forked
from tests.runs import fake_runs


def runs(*words: str | Path, code: int = 0) -> str:
    """What the command prints, in this process."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.setattr(sys, "argv", ["runs", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_command(main, "python -m nemo_workflow.runs")
    assert ended.value.code == code, out.getvalue()
    return out.getvalue()


def in_a_process(*words: str | Path) -> str:
    return forked.run(["-m", "nemo_workflow.runs", *words]).stdout


def table(text: str) -> dict[str, list[str]]:
    """Rows of the list by name, split where two spaces or more stand."""
    return {(cells := re.split(r"  +", line.strip()))[0]: cells[1:] for line in text.splitlines()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind."""
    root = tmp_path_factory.mktemp("experiments")
    fake_runs.write_run(root / "done", killed_at=60)
    fake_runs.write_run(root / "halted", upto=40, reason="stopped")
    fake_runs.append(
        fake_runs.make_plan(root / "halted"), [{"event": "stopping", "time": fake_runs.BEGAN, "step": 40, "signal": 15}]
    )
    fake_runs.write_run(root / "dead", upto=30, reason=None, lr=5e-4)
    fake_runs.write_run(root / "broken", upto=30, reason=None)
    error = (
        "1780000000.5\nTraceback (most recent call last):\n  File x\nValueError: loss is a pear\nmend: feed it apples\n"
    )
    (root / "broken" / "attempts" / "20260528-202640" / "rank1.error").write_text(error)
    fake_runs.write_run(root / "live", upto=30, reason=None, began=time.time() - 20)
    return root


def test_a_run_that_was_cancelled_says_so(tmp_path: Path) -> None:
    plan = fake_runs.write_run(tmp_path / "run", upto=30, reason="stopped")
    fake_runs.append(plan, [{"event": "stopping", "time": fake_runs.BEGAN, "step": 30, "signal": 15}])
    assert RunFolder(plan.folder).state.why == "asked to (SIGTERM)"
    control._tell_cancelled(plan.folder)
    assert RunFolder(plan.folder).state.why == "asked to (`runs cancel`)"
    (attempt := plan.folder / "attempts" / "29991231-000000").mkdir()
    starting.tell_launched(attempt)
    stopping.tell_signal(attempt, signal.SIGTERM)
    assert RunFolder(plan.folder).state.why.startswith("before the first step (SIGTERM)")  # not that start
    control._tell_cancelled(plan.folder)
    assert RunFolder(plan.folder).state.why.startswith("before the first step (`runs cancel`)")


def test_list_tells_each_runs_state_and_why(folder: Path) -> None:
    rows = table(runs("--output-dir", folder, "list"))
    assert rows["done"][:2] == ["finished", "100/100"] and re.fullmatch(r"\d\.\d{4}", rows["done"][2])
    assert rows["halted"][0] == "stopped" and rows["halted"][-1] == "asked to (SIGTERM)"
    assert rows["dead"][0] == "killed" and "continues" in rows["dead"][-1]
    assert rows["broken"][0] == "failed" and rows["broken"][-1] == "rank1: ValueError: loss is a pear"
    assert rows["live"][:2] == ["running", "30/100"]


def test_a_run_without_a_step_has_the_time_of_its_start_and_its_place_among_the_others(tmp_path: Path) -> None:
    for name, age in (("old", 3000), ("young", 30)):
        fake_runs.write_run(tmp_path / name, upto=30, reason=None, began=time.time() - age)
    plan = fake_runs.make_plan(tmp_path / "killed")
    starting.write_json(plan.folder / "attempts" / "1" / starting.FILE, {"time": time.time() - 300, "host": ""})
    (plan.folder / "plan.json").write_text(plan.to_json())
    rows = table(runs("--output-dir", tmp_path, "list"))
    assert list(rows)[1:] == ["young", "killed", "old"]
    assert rows["killed"][:2] == ["killed", "0/100"] and rows["killed"][-2].startswith("5 min")


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    plan = fake_runs.write_run(tmp_path / "old", upto=30, reason="stopped")
    assert table(in_a_process("--output-dir", tmp_path, "list"))["old"][0] == "stopped"
    with local.locked(plan.folder):
        assert table(in_a_process("--output-dir", tmp_path, "list"))["old"][0] == "running"


@pytest.mark.slow
def test_a_report_that_says_running_of_a_run_that_was_killed_is_written_again(tmp_path: Path) -> None:
    plan = fake_runs.write_run(tmp_path / "run", upto=30, reason=None)
    report = write_report(RunFolder(plan.folder, lambda path: 1))
    assert state_shown(report) == "running"
    runs("--output-dir", tmp_path, "list")
    assert state_shown(report) == "killed"
    written = report.stat().st_mtime_ns
    runs("--output-dir", tmp_path, "show", "run")
    assert report.stat().st_mtime_ns == written


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_report_of_a_run_in_a_folder_of_another_user(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root's tests can't meet, but for a disk that is read-only."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("a", "b"):
        fake_runs.write_run(tmp_path / name, upto=30)
    monkeypatch.setattr(page, "written_aside", refuse)
    for words, place in ((("report", "a"), "a"), (("compare", "a", "b"), "compare-a-b.html")):
        said = runs("--output-dir", tmp_path, *words, code=2)
        assert f"{tmp_path / place} can't be written ({os.strerror(number)}); give another file: --output FILE" in said


@pytest.mark.parametrize("command", ["show", "status", "logs"])
def test_a_run_that_is_closed_to_this_user_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As umask 077 makes it; root's tests can't meet it."""

    def closed(path: Path) -> bool:
        if path.parent == tmp_path / "run":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return path.exists() and not path.is_dir()

    fake_runs.write_run(tmp_path / "run", upto=30)
    monkeypatch.setattr(Path, "is_file", closed)
    said = runs("--output-dir", tmp_path, command, "run", code=2)
    monkeypatch.undo()
    assert f"error: {tmp_path / 'run' / 'plan.json'}: Permission denied; it is another user's" in said


def test_steps_that_a_resume_repeats_are_counted_once(folder: Path) -> None:
    run = RunFolder(folder / "done")
    assert [event["step"] for event in run.of_kind("step")] == list(range(1, 101))
    assert [(start["step"], start["last_step"], start["end"]) for start in run.starts()] == [
        (0, 60, "ended from outside"),
        (50, 100, "finished"),
    ]


def test_a_start_that_was_ended_at_once_says_by_what(tmp_path: Path) -> None:
    """As `runs list` does: Ctrl-C twice, say, of which the ranks write no end."""
    plan = fake_runs.write_run(tmp_path / "run", upto=30, reason=None)
    assert RunFolder(plan.folder).starts()[-1]["end"] == "ended from outside"
    attempt = plan.folder / "attempts" / "20261128-070000"
    attempt.mkdir(parents=True, exist_ok=True)
    stopping.tell_signal(attempt, signal.SIGINT)
    run = RunFolder(plan.folder)
    assert run.state.why.startswith("ended after Ctrl-C: "), run.state
    assert run.starts()[-1]["end"] == "ended after Ctrl-C"


def test_a_start_that_made_no_step_again_stands_at_the_saved_one(tmp_path: Path) -> None:
    """After a kill at step 60 with step 50 saved: neither step nor loss is that of step 60."""
    plan = fake_runs.write_run(tmp_path / "run", upto=60, reason=None)
    steps = {one["step"]: one for one in metrics.read(plan.folder / metrics.FILE) if one["event"] == "step"}
    later = {"event": "start", "time": steps[60]["time"] + 60, "step": 50, "max_steps": 100}
    fake_runs.append(plan, [later])
    run = RunFolder(plan.folder)
    assert run.newest("step") == steps[50] and run.newest("validation")["step"] <= 50
    (row,) = [line for line in runs("--output-dir", tmp_path, "list").splitlines() if line.startswith("run ")]
    assert "50/100" in row and f"{steps[50]['loss']:.4f}" in row and f"{steps[60]['loss']:.4f}" not in row
    assert "last step      step 50/100" in runs("--output-dir", tmp_path, "show", "run")


def test_an_export_that_was_stopped_after_the_training_is_named(tmp_path: Path) -> None:
    plan = fake_runs.write_run(tmp_path / "run")
    metrics.event(plan.folder / metrics.FILE, "export", **event(plan.folder, 100, 2.0, "stopped by Ctrl-C"))
    assert RunFolder(plan.folder).state.why == "reached step 100; not exported: stopped by Ctrl-C"
    for words in (("show", "run"), ("list",)):
        assert "not exported: stopped by Ctrl-C" in runs("--output-dir", tmp_path, *words)
    fake_runs.write_export(plan)
    assert RunFolder(plan.folder).state.why == "reached step 100"


def test_show_has_plan_progress_checkpoints_and_starts(folder: Path) -> None:
    text = runs("--output-dir", folder, "show", "done")
    for words in ("finished: reached step 100", "llama_tiny", "DP 2", "step 75  70.4 MiB  whole", "step 50 to 100"):
        assert words in text
    assert "step 25  70.4" not in text  # its folder is gone


@pytest.mark.slow
def test_everything_works_on_a_copied_folder(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder / "done", copy)
    (copy / "metrics.jsonl").open("a").write('{"event": "step", "st')  # copied while a line was written
    assert "finished" in runs("show", copy)
    assert runs("report", copy).strip() == str(copy / "report.html")
    assert (copy / "report.html").stat().st_size < 3_000_000


@pytest.mark.slow
def test_compare_shows_flags_that_differ_and_losses_side_by_side(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "both.html"
    text = runs("--output-dir", folder, "compare", "done", "dead", "-o", page)
    flags, losses = text.split("\n\n")[:2]
    assert [line.split()[0] for line in flags.splitlines()] == ["FLAG", "lr"]
    assert flags.splitlines()[1].split() == ["lr", "0.001", "0.0005"]
    assert losses.splitlines()[1].split()[0] == "3" and losses.splitlines()[-2].split()[0] == "30"
    assert "done: training loss" in page.read_text() and "dead: training loss" in page.read_text()


def test_what_the_plans_worked_out_comes_after_what_was_chosen(tmp_path: Path) -> None:
    texts = {
        "one": "max-steps: 10\nlr: 0.1\nwarmup-steps: 1\nsave-every: 5\nworked-out: warmup-steps save-every\n",
        "two": "max-steps: 90\nlr: 0.1\nwarmup-steps: 9\nsave-every: 7\nworked-out: warmup-steps\n",
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    rows = overview.differences([RunFolder(tmp_path / name) for name in texts])
    assert rows == [("max-steps", "10", "90"), ("save-every", "5", "7"), ("warmup-steps (worked out)", "1", "9")]


@pytest.mark.slow
def test_runs_without_a_step_are_compared_in_words(tmp_path: Path) -> None:
    for name in ("one", "other"):
        plan = fake_runs.make_plan(tmp_path / name)
        plan.folder.mkdir()
        (plan.folder / "plan.json").write_text(plan.to_json())
    text = runs("--output-dir", tmp_path, "compare", "one", "other", "-o", tmp_path / "page.html")
    assert "\nno step yet that all of them have made\n" in text and "STEP" not in text


def test_a_name_that_is_not_there_is_refused(folder: Path) -> None:
    assert "there are: broken, dead" in runs("--output-dir", folder, "show", "nothing", code=2)
    assert "two runs" in runs("--output-dir", folder, "compare", "done", code=2)
    assert "no such folder" in runs("--output-dir", folder / "no", "list", code=2)


def test_within_a_runs_own_folder_the_one_above_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "done")
    for words in (("list",), ("show", "nothing")):
        assert "; this folder is a run's: --output-dir .." in runs(*words, code=2)
    assert "done" in runs("list", "--output-dir", "..")
    monkeypatch.chdir(folder)
    assert ", as this folder is: --output-dir ." in runs("list", code=2)
    (folder.parent / "empty").mkdir()
    monkeypatch.chdir(folder.parent / "empty")
    assert "this folder is" not in runs("list", code=2)


def test_the_folder_may_be_named_before_and_after_the_subcommand(folder: Path) -> None:
    where = ("--output-dir", folder)
    listed = [re.sub(r"\d+ s ago", "", runs(*words)) for words in (("list", *where), (*where, "list"))]
    assert listed[0] == listed[1]
    assert "did you mean --output-dir?" in runs("list", "--output-dri", folder, code=2)


def test_200_runs_are_listed_quickly(tmp_path: Path) -> None:
    fake_runs.write_run(tmp_path / "run0", steps=3000, every=500)
    for number in range(1, 200):
        shutil.copytree(tmp_path / "run0", tmp_path / f"run{number}")
    began = time.monotonic()
    text = runs("--output-dir", tmp_path, "list")
    print(f"200 runs of 3000 steps listed in {time.monotonic() - began:.2f} s")
    assert len(text.splitlines()) == 201 and "3000/3000" in text


def test_a_damaged_plan_is_no_end_of_the_list(tmp_path: Path) -> None:
    fake_runs.write_run(tmp_path / "good")
    fake_runs.write_run(tmp_path / "bad")
    (tmp_path / "bad" / "plan.json").write_text("{")
    rows = table(runs("--output-dir", tmp_path, "list"))
    assert rows["bad"][0] == "finished" and rows["good"][0] == "finished"


def test_a_run_without_a_validation_has_none_anywhere(tmp_path: Path) -> None:
    for name in ("one", "two"):
        plan = fake_runs.write_run(tmp_path / name, lr=1e-3 if name == "one" else 2e-3)
        saved = json.loads(plan.to_json())
        saved["schedule"]["limit_val_batches"] = 0
        (tmp_path / name / "plan.json").write_text(json.dumps(saved))
        file = tmp_path / name / "metrics.jsonl"
        lines = [line for line in file.read_text().splitlines() if '"validation"' not in line]
        file.write_text("".join(f"{line}\n" for line in lines))
    shown = runs("--output-dir", tmp_path, "show", "one")
    assert table(shown)["validation"] == ["none"]
    assert "every 25 steps, the newest 2 kept, and the one resumed from\n" in shown
    said = runs("--output-dir", tmp_path, "compare", "one", "two")
    assert "validation" not in said
    assert (
        said.splitlines()[-1] == f"curves: {tmp_path / 'compare-one-two.html'}"
    )  # beside the runs, not where one stands


def test_all_checkpoints_kept() -> None:
    assert page.kept_words(-1) == "all kept"
