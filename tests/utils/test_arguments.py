"""What all our commands refuse alike."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.launch.corpus.command import main as preprocess
from nemo_workflow.preprocess.inspect_dataset import main as dataset
from nemo_workflow.preprocess.train_tokenizer import main as tokenizer
from nemo_workflow.runs.__main__ import main as runs
from nemo_workflow.runs.sample import main as sample
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.wikipedia.command import main as wikipedia

CASES = [
    (preprocess, ["--tokenizer", "t", "--output-dir", "o", "--input", ""], "--input"),
    (preprocess, ["--tokenizer", "t", "--output-dir", "o", "--input", "a", " "], "--input"),
    (preprocess, ["--tokenizer", "t", "--output-dir", "o", "--input-dir="], "--input-dir"),
    (preprocess, ["--tokenizer", "t", "--output-dir", "", "--input", "a"], "--output-dir"),
    (preprocess, ["--tokenizer", "", "--output-dir", "o", "--input", "a"], "--tokenizer"),
    (preprocess, ["--tokenizer", "t", "--output-dir", "o", "--input", "a", "--eod-token="], "--eod-token"),
    (preprocess, ["--tokenizer", "t", "--output-dir", "o", "--input", "a", "--executor", "slurm", "-A", ""], "--account"),
    (wikipedia, ["--dump", ""], "--dump"),
    (wikipedia, ["--date", ""], "--date"),
    (wikipedia, ["--output-dir="], "--output-dir"),
    (import_main, ["--source", ""], "--source"),
    (import_main, ["--source", "a", "--output-path", ""], "--output-path"),
    (export_main, ["--source", "a", "--output-path", "b", "--hf-tokenizer", ""], "--hf-tokenizer"),
    (dataset, [""], "DIR_OR_PREFIX"),
    (tokenizer, ["--input", "", "--output-dir", "o"], "--input"),
    (runs, ["--output-dir", "", "list"], "--output-dir"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "named"), CASES)
def test_an_empty_value_is_refused(
    command: Callable[..., int], words: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty path was the current folder, `--dump ""` a download of the default wiki."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(Refusal) as refusal:
        command(words) if command not in (tokenizer, runs) else command()
    assert str(refusal.value).startswith(f"{named}: an empty value; a shell variable may be unset: give a value")


NEEDED = ("--tokenizer", "--source", "--output-path", "--input", "DIR_OR_PREFIX")


@pytest.mark.parametrize(("command", "words", "named"), CASES)
def test_only_what_can_be_left_out_is_said_to(
    command: Callable[..., int], words: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(Refusal) as refusal:
        command(words) if command not in (tokenizer, runs) else command()
    needed = named in NEEDED or (command, named) == (preprocess, "--output-dir") or named == "--input-dir"
    assert str(refusal.value).endswith("give a value" if needed else "give a value, or leave the flag out")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (preprocess, "--tokenizer t --output-dir o --input", "--input: no value; a shell variable may be unset: give a value"),
        (preprocess, "--tokenizer t --output-dir o --input --join", "--input: no value; a shell variable may be unset"),
        (preprocess, "--tokenizer --output-dir o --input x", "--tokenizer: no value; a shell variable may be unset"),
        (preprocess, "--input x --workers", "--workers: no value; a shell variable may be unset: give a value, or leave the flag out"),
        (sample, "--hf-model hi", "TEXT is required: --hf-model has taken 'hi' for its own value; a shell variable between them"),
        (sample, "--hf-model", "--hf-model: no value; a shell variable may be unset: give a value"),
        (sample, "hi", "--hf-model is required (see --help)"),
        (runs, "show", "NAME is required (see --help)"),
        (runs, "show --output-dir exp", "NAME is required: --output-dir has taken 'exp' for its own value"),
        (runs, "--output-dir list", "COMMAND is required: --output-dir has taken 'list' for its own value"),
        (export_main, "--source --output-path x", "--source: no value; a shell variable may be unset: give a value"),
        (preprocess, "", "--input or --input-dir, --tokenizer, --output-dir are required"),
    ],
)  # fmt: skip
def test_a_variable_that_is_unset_is_thought_of(
    command: Callable[..., int], words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words.split()])
    with pytest.raises(Refusal) as refusal:
        command()
    assert str(refusal.value).startswith(said)


def test_an_empty_number_is_an_empty_value(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match=r"^--workers: an empty value; a shell variable may be unset"):
        preprocess(["--tokenizer", "t", "--output-dir", "o", "--input", "a", "--workers", ""])
