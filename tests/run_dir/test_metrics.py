"""metrics.jsonl as kills and resumed starts leave it: what is read, what counts, what a line of a log says."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.run_dir import metrics
from tests.runs import fake_runs


def written(path: Path, *events: dict[str, Any], end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(event) for event in events) + end)
    return path


def step(number: int, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, **more}


def start(number: int) -> dict[str, Any]:
    return {"event": "start", "step": number, "max_steps": 9}


def test_what_follows_a_torn_line_stands_on_its_own(tmp_path: Path) -> None:
    path = written(tmp_path / metrics.FILE, step(1), end='\n{"event": "st')
    metrics.event(path, "note", text="on it goes")
    assert [(e["event"], e.get("text")) for e in metrics.read(path)] == [("step", None), ("note", "on it goes")]
    assert path.read_text().splitlines()[1] == '{"event": "st'


def test_a_whole_line_gets_no_second_end(tmp_path: Path) -> None:
    path = written(tmp_path / metrics.FILE, step(1))
    before = path.read_bytes()
    metrics.cut_torn_line(path)
    assert path.read_bytes() == before


def test_nothing_is_made_of_a_file_that_is_not_there_or_empty(tmp_path: Path) -> None:
    path = tmp_path / metrics.FILE
    metrics.cut_torn_line(path)
    assert not path.exists()
    path.touch()
    metrics.cut_torn_line(path)
    assert path.read_bytes() == b""
    assert metrics.read(tmp_path / "nowhere") == []


def test_an_event_has_its_kind_its_time_and_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / metrics.FILE
    monkeypatch.setattr(metrics.time, "time", lambda: 1_700_000_000.98765)
    metrics.event(path, "restart", text="once more", step=3)
    (event,) = metrics.read(path)
    assert event["event"] == "restart" and event["text"] == "once more" and event["step"] == 3
    assert event["time"] == 1_700_000_000.988


def test_the_tail_goes_on_where_it_was_and_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = written(tmp_path / metrics.FILE, step(1))
    all_of_it, new = metrics.Tail(path), metrics.Tail(path, from_end=True)
    assert [e["step"] for e in all_of_it.new()] == [1] and list(new.new()) == []
    with path.open("a") as stream:
        stream.write(json.dumps(step(2)))
    assert list(all_of_it.new()) == [] == list(new.new())
    with path.open("a") as stream:
        stream.write("\n" + json.dumps(step(3)) + "\n")
    assert [e["step"] for e in all_of_it.new()] == [2, 3] == [e["step"] for e in new.new()]
    assert list(metrics.Tail(tmp_path / "later", from_end=True).new()) == []


def test_the_last_of_each_kind_is_found_in_the_last_block(tmp_path: Path) -> None:
    path = written(tmp_path / metrics.FILE, start(0), step(1), step(2), end='\n{"event": "step", "step": 3')
    assert metrics.last(path) == {"start": start(0), "step": step(2)}
    # a block that begins in the middle of a line leaves that line out
    assert metrics.last(path, block=len(json.dumps(step(2))) + 40) == {"step": step(2)}
    assert metrics.last(path, block=path.stat().st_size)["start"] == start(0)
    assert metrics.last(tmp_path / "nowhere") == {}


def test_the_last_passes_over_what_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / metrics.FILE
    path.write_text(json.dumps(step(1)) + '\n{"event": "step", "ste\nnot JSON\n{"time": 1, "kind": "none"}\n')
    assert metrics.last(path) == {"step": step(1)}


def test_steps_that_a_resumed_start_repeats_are_dropped() -> None:
    note = {"event": "note", "text": "without a step"}
    history = [start(0), step(1), step(2), note, step(3), start(2), step(3, loss=1.0)]
    assert metrics.effective(history) == [start(0), step(1), step(2), note, start(2), step(3, loss=1.0)]


def test_every_start_stays_in_the_history_that_counts() -> None:
    assert metrics.effective([start(0), start(4), start(2)]) == [start(0), start(4), start(2)]


def test_a_validation_counts_only_in_the_history_that_counts(tmp_path: Path) -> None:
    validation = {"event": "validation", "step": 4, "val_loss": 1.0}
    written(tmp_path / metrics.FILE, start(0), step(4), validation)
    assert metrics.validated(tmp_path, 4) and not metrics.validated(tmp_path, 3)
    written(tmp_path / metrics.FILE, start(0), step(4), validation, start(2))
    assert not metrics.validated(tmp_path, 4)
    written(tmp_path / metrics.FILE, start(0), step(4))
    assert not metrics.validated(tmp_path, 4)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (start(0), "starting: 9 steps"),
        (start(4), "resuming after step 4 of 9"),
        ({"event": "validation", "step": 4, "val_loss": 1.25}, "step 4: validation loss 1.2500"),
        ({"event": "validation", "step": 4, "val_loss": None}, None),
        (
            {"event": "checkpoint", "step": 4, "bytes": 3 * 2**30, "seconds": 2.04},
            "step 4: checkpoint saved, 3.0 GiB in 2.0 s",
        ),
        ({"event": "note", "text": "a word"}, "a word"),
        ({"event": "restart", "text": "again"}, "again"),
        (
            {"event": "spike", "step": 4, "loss": 9.0, "usual": 2.5},
            "step 4: warning: loss 9.0000, far above the usual 2.5000",
        ),
        ({"event": "stopping", "step": 4, "signal": 15}, "step 4: asked to stop (SIGTERM); saving a checkpoint"),
        ({"event": "end", "step": 9, "reason": "finished"}, "finished after step 9"),
        ({"event": "end", "step": 4, "reason": "stopped"}, None),
        *(({"event": kind, "step": 4}, None) for kind in metrics.SAID_BY_A_NOTE),
    ],
)
def test_an_event_as_a_line_of_a_log(event: dict[str, Any], line: str | None) -> None:
    assert metrics.plain(event, 9, 1) == line


def test_a_log_has_each_nth_step_and_the_last() -> None:
    told = [n for n in range(1, 10) if metrics.plain(step(n, loss=2.0), 9, 4)]
    assert told == [4, 8, 9]
    assert str(metrics.plain(step(4, loss=2.0), 9, 4)).startswith("step 4/9  ")


def test_the_least_important_is_left_out_until_a_line_fits() -> None:
    event = step(3, loss=2.0, lr=1e-3, grad_norm=1.0, tokens_per_second=5.0, consumed_samples=12)
    whole = metrics.progress(event, 9, left=65, val_loss=1.5)
    assert whole.startswith("step 3/9  ") and "left" in whole and "1.5" in whole
    assert metrics.progress(event, 9, left=65, val_loss=1.5, width=len(whole)) == whole
    shorter = metrics.progress(event, 9, left=65, val_loss=1.5, width=len(whole) - 1)
    assert len(shorter) < len(whole) and "step 3/9" in shorter and "left" in shorter
    assert "left" not in metrics.progress(event, 9)


def test_the_summary_is_of_the_history_that_counts(tmp_path: Path) -> None:
    plan = fake_runs.make_plan(tmp_path / "run", steps=9)
    plan.folder.mkdir()
    steps = [
        step(n, loss=10.0 - n, memory_bytes=100 - n, consumed_samples=16 * n, tokens_per_second=n / 2)
        for n in range(1, 5)
    ]
    validation = {"event": "validation", "step": 2, "val_loss": 7.5}
    history = [start(0), steps[0], steps[1], validation, step(3, loss=0.0, memory_bytes=999), start(2), *steps[2:]]
    written(plan.folder / metrics.FILE, *history)
    metrics.write_summary(plan, "stopped")
    summary = json.loads((plan.folder / metrics.SUMMARY).read_text())
    kept = ("state", "first_loss", "final_loss", "val_loss", "steps", "max_steps", "consumed_samples", "restarts")
    assert [summary[name] for name in kept] == ["stopped", 9.0, 6.0, 7.5, 4, 9, 64, 1]
    assert summary["peak_memory_bytes"] == 99 and summary["command"] == list(plan.command)
    assert summary["tokens_per_second"] == 1.25 and summary["mfu"] is None
    assert summary["versions"] == metrics.versions() and datetime.strptime(summary["ended"], "%Y-%m-%dT%H:%M:%S%z")
    assert (summary["model_name"], summary["accelerator"]) == ("llama_tiny", "cpu")


def test_a_run_that_ended_before_its_first_step_has_a_summary(tmp_path: Path) -> None:
    plan = fake_runs.make_plan(tmp_path / "run")
    plan.folder.mkdir()
    written(plan.folder / metrics.FILE, start(0))
    metrics.write_summary(plan, "failed")
    summary = json.loads((plan.folder / metrics.SUMMARY).read_text())
    empty = ("first_loss", "final_loss", "val_loss", "peak_memory_bytes")
    assert [summary[name] for name in empty] == [None] * 4
    assert (summary["steps"], summary["consumed_samples"], summary["restarts"]) == (0, 0, 0)


def test_the_tail_takes_what_came_in_several_calls(tmp_path: Path) -> None:
    path = written(tmp_path / metrics.FILE, step(1), step(2))
    tail = metrics.Tail(path)
    assert [e["step"] for e in tail.new()] == [1, 2]
    for number in (3, 4):
        with path.open("a") as stream:
            stream.write(json.dumps(step(number)) + "\n")
        assert [e["step"] for e in tail.new()] == [number]


def test_a_block_that_begins_in_the_middle_of_an_event_leaves_it_out(tmp_path: Path) -> None:
    """The torn start of a block may look like a whole event: a text that holds one."""
    inner = json.dumps({"event": "step", "step": 99})
    path = tmp_path / metrics.FILE
    path.write_text('{"event": "note", "text": ' + inner + "\n" + json.dumps(start(0)) + "\n")
    block = len(inner) + 1 + len(json.dumps(start(0))) + 1
    assert metrics.last(path, block=block) == {"start": start(0)}


def test_a_kind_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / metrics.FILE
    path.write_bytes(json.dumps(step(1)).encode() + b'\n{"event": "st\xff\xfe", "step": 2}\n')
    assert metrics.last(path)["step"] == step(1)


def test_an_event_of_step_0_stays_whatever_start_follows() -> None:
    first = {"event": "note", "step": 0}
    assert metrics.effective([first, {"event": "note"}, start(0)]) == [first, {"event": "note"}, start(0)]


def test_a_validation_names_the_loss_of_each_set() -> None:
    event = {"event": "validation", "step": 4, "val_loss": 1.25, metrics.SET_LOSSES: {"a": 1.0, "b": 2.0, "c": None}}
    assert metrics.plain(event, 9, 1) == "step 4: validation loss 1.2500, a 1.0000, b 2.0000"


def test_a_step_as_text_in_its_order() -> None:
    assert (
        metrics.progress(step(3, loss=2.0), 9, left=65, val_loss=1.5)
        == "step 3/9  loss 2.0000  val 1.5000  1 min 05 s left"
    )
    assert metrics.progress(step(3, loss=2.0), 9) == "step 3/9  loss 2.0000"


def test_the_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "version", lambda name: {"torch": "2.13.0", "nemo_run": "0.9.0"}.get(name))
    monkeypatch.setattr(metrics.platform, "python_version", lambda: "3.11.7")
    assert metrics.versions() == {"python": "3.11.7", "torch": "2.13.0", "nemo_run": "0.9.0"}


@pytest.mark.parametrize("losses", [{"a": 1.0}, None])
def test_the_summary_has_the_loss_of_each_set(tmp_path: Path, losses: dict[str, float] | None) -> None:
    plan = fake_runs.make_plan(tmp_path / "run")
    plan.folder.mkdir()
    sets = {} if losses is None else {metrics.SET_LOSSES: losses}
    written(plan.folder / metrics.FILE, start(0), {"event": "validation", "step": 2, "val_loss": 7.5, **sets})
    metrics.write_summary(plan, "stopped")
    assert json.loads((plan.folder / metrics.SUMMARY).read_text())[metrics.SET_LOSSES] == (losses or {})


def test_a_median_is_of_the_last_100_steps_and_has_four_decimals() -> None:
    steps = [
        step(0, mfu=50.0),
        *(step(n, mfu=0.0) for n in range(1, 50)),
        step(50),
        *(step(n, mfu=1 / 3) for n in range(51, 101)),
    ]
    assert metrics._median(steps, "mfu") == 0.3333
    assert metrics._median([step(n, mfu=float(n)) for n in range(101)], "mfu") == 50.5
    assert metrics._median(steps, "none") is None


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "step 4: exported and verified in 12 s: /runs/a/hf_model"),
        ({"hub": "org/a"}, "step 4: exported and verified in 12 s: /runs/a/hf_model, and uploaded to org/a"),
        ({"problem": "the disk is full"}, "step 4: not exported to Hugging Face: the disk is full"),
    ],
)
def test_an_export_says_where_it_is_or_why_there_is_none(more: dict[str, str], line: str) -> None:
    event = {"event": "export", "step": 4, "seconds": 12.0, "path": "/runs/a/hf_model", "hub": None, "problem": ""}
    assert metrics.plain({**event, **more}, 9, 1) == line
