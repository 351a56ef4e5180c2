"""kill -9 at every point: the same command continues from the newest whole checkpoint, to the very same numbers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.run_dir import metrics
from tests.e2e.run.harness import REPOSITORY, manifest, samples
from tests.e2e.run.scenarios import ODD_NAME

pytestmark = pytest.mark.e2e


def test_one_rank_ends_as_if_nothing_had_happened(kills_on_one_rank: Any, one_rank: Any) -> None:
    assert len(one_rank.history["steps"]) == 12 and len(one_rank.history["validations"]) == 3
    assert kills_on_one_rank.history == one_rank.history
    assert samples(kills_on_one_rank.record) == samples(one_rank.record)  # in the same order, with the same tokens


def test_killed_in_the_first_save_ever(kills_on_one_rank: Any) -> None:
    assert kills_on_one_rank.after_first_save == []
    assert "removed checkpoint step_00000004: its writing was interrupted" in kills_on_one_rank.second.output
    assert "starting: 12 steps" in kills_on_one_rank.second.output


def test_killed_after_the_manifest_before_the_mark_goes(kills_on_one_rank: Any) -> None:
    assert kills_on_one_rank.before_the_mark == []


def test_ranks_whose_launcher_was_killed_save_and_end(kills_on_one_rank: Any) -> None:
    left = kills_on_one_rank.left_by_launcher
    assert left.code == 1
    assert "rank 0 was ended by SIGKILL" in left.output
    assert "resuming" not in left.output  # killed while it loaded
    assert kills_on_one_rank.ranks_gone
    steps = [e["step"] for e in metrics.read(kills_on_one_rank.run.folder / metrics.FILE) if e["event"] == "stopping"]
    assert len(steps) == 1 and 5 <= steps[0] < 8
    assert kills_on_one_rank.before_save == steps


def test_killed_runs_leave_no_temporary_files_after_the_next_start(kills_on_one_rank: Any) -> None:
    assert kills_on_one_rank.temporary == []


def test_killed_before_the_last_validation_the_same_command_makes_it(kills_on_one_rank: Any) -> None:
    said = kills_on_one_rank.validation.output
    assert "resuming after step 12 of 12" in said and "step 12: validation loss" in said
    assert "step 12/12" not in said and "checkpoint saved" not in said  # nothing else is made again
    assert "already trained to step 12" in kills_on_one_rank.again.output


def test_killed_while_an_old_checkpoint_is_removed(kills_on_one_rank: Any) -> None:
    assert ".removing-step_00000008" in kills_on_one_rank.pruning
    assert "finished the removal of checkpoint step_00000008" in kills_on_one_rank.validation.output
    assert kills_on_one_rank.at_the_end == ["step_00000012", "step_00000013"]  # keep 1, and the one resumed from


def test_two_ranks_end_as_if_nothing_had_happened(kills_on_two_ranks: Any, two_ranks: Any) -> None:
    assert kills_on_two_ranks.history == two_ranks.history


def test_the_killed_rank_is_named_with_its_log(kills_on_two_ranks: Any) -> None:
    last = kills_on_two_ranks.in_save.output.strip().splitlines()[-1]
    assert "rank 1 was ended by SIGKILL" in last and last.endswith(
        "rank1.log; the kernel does so where memory runs out"
    )


def test_a_kill_in_a_save_leaves_the_one_before(kills_on_two_ranks: Any) -> None:
    assert kills_on_two_ranks.after_save == [4]
    assert kills_on_two_ranks.after_group == [4, 8]
    assert kills_on_two_ranks.group_gone


def test_a_flipped_bit_is_found_named_and_set_aside(kills_on_two_ranks: Any) -> None:
    output = kills_on_two_ranks.last.output
    assert "checkpoint step_00000008 is not used: the content of weights/__1_0.distcp has changed" in output
    assert "resuming after step 4 of 12" in output
    assert kills_on_two_ranks.damaged == ["step_00000008"]


def export(source: Path, output: Path) -> list[str]:
    return [
        sys.executable, "ckpt_conversion/convert_from_nemo2_to_hf.py", "--source", str(source), "--output-path",
        str(output), "--no-verify",
    ]  # fmt: skip


# the command that follows, killed as it opens its next file when one beside it has been written
KILLED_HALF_WAY = """
import os, runpy, signal, sys
from pathlib import Path
command = os.getpid()
def look(event, values):
    if event == "open" and isinstance(values[0], (str, bytes)) and ".partial/" in os.fsdecode(values[0]):
        beside = Path(os.fsdecode(values[0])).parent.iterdir()
        if any(file.name.endswith(".safetensors") and file.stat().st_size for file in beside):
            os.kill(command, signal.SIGKILL)  # a process of its own may write
sys.addaudithook(look)
del sys.argv[0]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_export_killed_half_way_is_made_whole_by_the_same_command(signals: Any, tmp_path: Path) -> None:
    """From and to folders with odd names."""
    source = signals.run.checkpoints / "step_00000016"
    subprocess.run(export(source, tmp_path / "whole"), cwd=REPOSITORY, check=True, capture_output=True)
    folder = tmp_path / ODD_NAME
    folder.mkdir()
    output = folder / "killed"
    python, *words = export(source, output)
    killed = subprocess.run(
        [python, "-c", KILLED_HALF_WAY, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists() and list(folder.glob(".killed.*.partial/*"))
    subprocess.run(export(source, output), cwd=REPOSITORY, check=True, capture_output=True)
    for file in (tmp_path / "whole").glob("*.safetensors"):
        assert file.read_bytes() == (output / file.name).read_bytes()


def test_manifests_say_what_the_checkpoint_is(one_rank: Any, two_ranks: Any) -> None:
    for scenario, shards in ((one_rank, {"__0_0", "__0_1"}), (two_ranks, {"__0_0", "__0_1", "__1_0", "__1_1"})):
        said = manifest(scenario.run.checkpoints / "step_00000012")
        assert (said["step"], said["consumed_samples"]) == (12, 48)
        assert {name[8:-7] for name in said["files"] if name.endswith(".distcp")} == shards
        assert {"weights/.metadata", "weights/common.pt", "context/io.json"} <= set(said["files"])
        assert said["identity"]["seed"] == 1234


def test_a_second_start_at_the_same_time_is_refused(two_ranks: Any) -> None:
    assert two_ranks.second.returncode == 2
    assert "already running" in two_ranks.second.stderr
    assert "Traceback" not in two_ranks.second.stderr
