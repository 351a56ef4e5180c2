"""Signals, NaNs, full disks and hung ranks: a run stops with the reason, nothing is lost, and the exit code says so."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.run.harness import manifest
from tests.e2e.run.scenarios import ODD_NAME

pytestmark = pytest.mark.e2e


def test_each_signal_has_its_exit_code_and_a_checkpoint(signals: Any) -> None:
    assert signals.codes == [143, 130, 138]
    for name, steps, output in zip(("SIGTERM", "Ctrl-C", "SIGUSR1"), signals.whole, signals.outputs, strict=True):
        assert f"asked to stop ({name})" in output
        assert f"stopped: step {steps[-1]} is saved" in output
        assert "Traceback" not in output


def test_a_stopped_run_leaves_no_temporary_files(signals: Any) -> None:
    assert signals.temporary == []


def test_a_run_stopped_three_times_equals_one_that_was_not(signals: Any, one_rank: Any) -> None:
    assert signals.history == one_rank.history  # the validation after step 8 was left and made again


def test_a_finished_run_says_so(signals: Any) -> None:
    assert "already trained to step 12" in signals.again.output
    assert "starting" not in signals.again.output and "resuming" not in signals.again.output


def test_pythonoptimize_is_taken_back_and_trains(signals: Any) -> None:
    """fiddle reads docstrings, which PYTHONOPTIMIZE=2 drops."""
    assert signals.more.code == 0 and "Traceback" not in signals.more.output
    assert [row[0] for row in signals.longer["steps"]] == list(range(1, 17))


def test_names_with_blanks_quotes_and_dollars_run_nothing(signals: Any) -> None:
    assert signals.run.output.name == ODD_NAME
    assert not list(Path(__file__).parents[3].glob("pwned")) and not list(signals.trap.parent.rglob("pwned"))


def test_code_and_pickles_beside_a_tokenizer_are_neither_run_nor_copied(signals: Any) -> None:
    assert not signals.trap.exists()
    left = [path.name for path in signals.run.folder.rglob("*") if path.suffix in (".py", ".pkl")]
    assert not {"evil.py", "tokenization_evil.py", "vocab.pkl"} & set(left)
    context = signals.run.checkpoints / "step_00000016" / "context"
    assert list(context.rglob("tokenizer.json")) and list(context.rglob("tokenizer_config.json"))


def test_ctrl_c_in_a_step_that_outlasts_the_grace_time_says_130_and_what_is_lost(ends: Any) -> None:
    code, output = ends.in_a_step.code, ends.in_a_step.output
    assert code == 130 and ends.in_a_step_gone
    assert "stopped in the middle of a step, which did not end within 1 s (--grace-seconds)" in output
    assert "step 4 is saved, step 5 is not; the same command continues from there" in output
    assert ends.saved == [2, 4]


def test_a_killed_torchrun_is_named_and_its_ranks_go_with_it(ends: Any) -> None:
    code, output = ends.torchrun.code, ends.torchrun.output
    assert code == 1 and ends.torchrun_gone and ends.resumed_after == 4
    assert "torchrun, which runs the ranks, was ended by SIGKILL" in output
    assert "step 4 is saved, steps 5 to 6 are not" in output


def test_a_nan_stops_before_the_update_with_step_rank_and_samples(ends: Any) -> None:
    event = ends.event
    assert (event["step"], event["ranks"]) == (3, [1])
    # samples 8 to 11 are those of step 3; rank 1 has the second micro batch
    assert [entry["sample"] for entry in event["samples"]["1"]] == [10, 11]
    assert all(Path(entry["source"]).name == "text_text_document" for entry in event["samples"]["1"])
    assert "step 3: a gradient is NaN or infinite on rank 1, before the update" in ends.nan.output
    assert "samples of rank 1: 10, 11" in ends.nan.output
    assert ends.saved_at_nan == [2]
    assert manifest(ends.run.checkpoints / "step_00000002")["consumed_samples"] == 8


def test_a_nan_is_skipped_and_counted(ends: Any) -> None:
    assert "step left out, 1 of 1" in ends.in_a_step.output
    rows = ends.run.history()["steps"]
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row[1] is not None and math.isfinite(row[1]) for row in rows)


def test_the_last_save_is_whole_though_it_was_begun_in_the_background(kills_on_two_ranks: Any) -> None:
    assert kills_on_two_ranks.whole_at_end == [8, 12]


@pytest.mark.thorough
def test_a_disk_that_fills_during_a_save_stops_the_run_with_that_reason(disk: Any) -> None:
    code, output = disk.stopped
    assert code == 1
    assert "checkpoint step_00000008 could not be saved: no space left on device" in output
    assert disk.whole == [4]
    assert disk.left == ["step_00000004"]  # nothing half written stays


@pytest.mark.thorough
def test_on_save_error_continue_goes_on_without_that_save(disk: Any, one_rank: Any) -> None:
    code, output = disk.went_on
    assert code == 0, output
    assert [event["step"] for event in disk.failed_saves] == [8]
    assert disk.whole_at_end == [4, 12]
    assert disk.history == one_rank.history


@pytest.mark.thorough
def test_a_start_without_room_for_a_checkpoint_is_refused(disk: Any) -> None:
    code, output = disk.refused
    assert code == 2
    assert re.search(r"no space left for a checkpoint: it needs [\d.]+ MiB, and [\d.]+ MiB are free", output)


@pytest.mark.thorough
def test_a_first_start_without_room_makes_no_step(disk: Any) -> None:
    code, output = disk.fresh
    assert code == 1
    assert "no space left for a checkpoint" in output and "no step was made" in output
    assert "step 1/12" not in output


def test_a_hung_rank_is_found_and_shown(kills_on_two_ranks: Any) -> None:
    seen = kills_on_two_ranks
    assert "no step for 0.5 min; rank 1 was stopped (SIGSTOP)" in seen.hung.output
    assert seen.hung_gone
    for rank in (0, 1):
        log = (seen.hung_attempt / f"rank{rank}.log").read_text(encoding="utf-8", errors="replace")
        assert "most recent call first" in log and "worker.py" in log, rank
    assert seen.hung_steps == [1, 2, 3, 4]


def test_deterministic_runs_are_equal_bit_for_bit(one_rank: Any, kills_on_one_rank: Any) -> None:
    for run in (one_rank.run, kills_on_one_rank.run):
        assert "--deterministic" in run.flags and "deterministic: true" in (run.folder / "config.yaml").read_text()
    assert one_rank.history == kills_on_one_rank.history
