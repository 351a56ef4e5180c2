"""What may change when a run goes on, and what may not: the rows of docs/resume.md."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import rate_at
from tests.e2e.run.harness import REPOSITORY, Experiment, lines_of, samples

pytestmark = pytest.mark.e2e


def refused(experiment: Experiment, *flags: str) -> str:
    """The refusal of a start; it must come before anything is launched."""
    attempts = sorted((experiment.folder / "attempts").iterdir())
    done = subprocess.run(
        experiment.command(*flags, steps=20), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert sorted((experiment.folder / "attempts").iterdir()) == attempts
    return done.stderr


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (("--split", "800,150,50"), "split"),
        (("--seq-length", "32"), "seq-length"),
        (("--seed", "7"), "seed"),
    ],
)
def test_refused_unless_allowed(one_rank: Any, flags: tuple[str, ...], name: str) -> None:
    text = refused(one_rank.run, *flags)
    assert f"--allow-change {name}" in text and "step_00000012" in text


def test_another_dataset_is_refused(one_rank: Any, other_corpus: Path) -> None:
    flags = ("--dataset-dir", str(other_corpus / "dataset"), "--allow-change", "tokenizer")
    text = refused(one_rank.run, *flags)
    assert "--allow-change dataset" in text and "dataset/preprocessed" in text
    assert re.search(r"\(then \S*dataset/\S+, now \S*dataset/\S+ and 1 more|\(then \S+, now \S+ and \S+\)", text), text


@pytest.mark.usefixtures("all_done")  # a scenario that starts meanwhile would be refused too
def test_changed_data_of_equal_size_is_refused(one_rank: Any, corpus: Path) -> None:
    file = next((corpus / "dataset").rglob("*.bin"))
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]]))
        text = refused(one_rank.run)
    finally:
        file.write_bytes(whole)
    assert "--allow-change dataset" in text and "text_text_document: bin other content" in text
    assert not re.search(r"[0-9a-f]{32}", text)


def test_another_tokenizer_is_refused(one_rank: Any, other_corpus: Path) -> None:
    text = refused(one_rank.run, "--hf-model-id", str(other_corpus / "tokenizer"))
    assert "--allow-change tokenizer" in text and "preprocessed with another tokenizer.json" in text


def test_another_model_is_never_allowed(one_rank: Any) -> None:
    text = refused(one_rank.run, "--model-name", "llama32_1b", "--allow-change", "dataset")
    assert "model differs" in text and "--allow-change model" not in text


def test_an_allowed_change_goes_on_and_is_said(kills_on_one_rank: Any) -> None:
    output = kills_on_one_rank.last.output
    assert "changed since checkpoint step_00000012: --split (900,50,50 -> 800,150,50)" in output
    assert kills_on_one_rank.run.resumed_after() == 12


@pytest.mark.parametrize("name", ["DP2", "TP2", "PP2"])
def test_another_layout_goes_on_with_the_same_losses_and_samples(other_layouts: Any, one_rank: Any, name: str) -> None:
    went_on = other_layouts[name]
    assert went_on.start.code == 0, went_on.start.output
    assert went_on.run.resumed_after() == 8
    assert "changed since checkpoint step_00000008: the parallel layout" in went_on.start.output
    for ours, reference in zip(went_on.history["steps"], one_rank.history["steps"], strict=True):
        assert ours[0] == reference[0] and ours[4] == reference[4]
        assert ours[1] == pytest.approx(reference[1], abs=0.01)
        assert ours[2] == reference[2]
    assert samples(went_on.record)["train"] == [row for row in samples(one_rank.record)["train"] if row[0] >= 32]


@pytest.mark.thorough
def test_two_ranks_go_on_as_one(fewer_ranks: Any, two_ranks: Any) -> None:
    assert fewer_ranks.start.code == 0, fewer_ranks.start.output
    assert fewer_ranks.run.resumed_after() == 8
    for ours, reference in zip(fewer_ranks.history["steps"], two_ranks.history["steps"], strict=True):
        assert ours[0] == reference[0] and ours[4] == reference[4]
        assert ours[1] == pytest.approx(reference[1], abs=0.01)


@pytest.mark.thorough
def test_another_global_batch_sees_the_next_samples_once(other_batch: Any, one_rank: Any) -> None:
    assert other_batch.start.code == 0, other_batch.start.output
    assert "--global-batch-size (4 -> 8)" in other_batch.start.output
    assert lines_of(other_batch.record, "train") == list(range(32, 64))
    assert [row[4] for row in other_batch.history["steps"]] == [*range(4, 33, 4), 40, 48, 56, 64]
    shared = [row for row in samples(one_rank.record)["train"] if row[0] >= 32]
    assert samples(other_batch.record)["train"][: len(shared)] == shared


@pytest.mark.thorough
def test_another_learning_rate_holds_from_the_next_step_on(other_batch: Any, one_rank: Any) -> None:
    plan = Plan.from_json((other_batch.run.folder / "plan.json").read_text(encoding="utf-8"))
    rates = {row[0]: row[2] for row in other_batch.history["steps"]}
    assert [rates[step] for step in range(1, 9)] == [row[2] for row in one_rank.history["steps"][:8]]
    assert [rates[step] for step in range(9, 13)] == pytest.approx([rate_at(plan.schedule, n) for n in range(8, 12)])
    assert "flags of the learning rate and the optimizer (lr" in other_batch.start.output


def test_more_steps_go_on_without_repeating_or_skipping(signals: Any, one_rank: Any) -> None:
    read = lines_of(signals.record, "train")
    assert sorted(set(read)) == list(range(64))
    assert len(read) == len(set(read))  # three stops and a longer run: every sample once
    assert samples(signals.record)["train"][:48] == samples(one_rank.record)["train"]
    assert "--max-steps (12 -> 16)" in signals.more.output
    assert [row[0] for row in signals.longer["steps"]] == list(range(1, 17))
    assert "the learning rate goes from" in signals.more.output


def test_every_validation_sees_the_same_samples(one_rank: Any) -> None:
    read = lines_of(one_rank.record, "valid")
    once = read[: len(read) // 3]
    assert read == once * 3 and once == list(range(len(once)))
