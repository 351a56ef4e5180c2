"""What all our commands refuse alike."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.launch.corpus.command import main as preprocess
from nemo_workflow.preprocess.inspect_dataset import main as dataset
from nemo_workflow.preprocess.train_tokenizer import main as tokenizer
from nemo_workflow.runs import control
from nemo_workflow.runs.__main__ import main as runs
from nemo_workflow.runs.evaluate import main as evaluate
from nemo_workflow.runs.export import main as export
from nemo_workflow.runs.report_command import main as report
from nemo_workflow.runs.sample import main as sample
from nemo_workflow.training import liveness
from nemo_workflow.utils.arguments import Parser, _actions
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.wikipedia.command import main as wikipedia
from tests.places import write_tokenizer
from tests.runs import fake_runs

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
        (preprocess, "--hf-tokenizer --output-dir o --input x", "--hf-tokenizer: no value; a shell variable may be unset"),
        (preprocess, "--input x --workers", "--workers: no value; a shell variable may be unset: give a value, or leave the flag out"),
        (sample, "--hf-model hi", "TEXT is required: --hf-model has taken 'hi' for its own value; a shell variable between them"),
        (sample, "--hf-model", "--hf-model: no value; a shell variable may be unset: give a value"),
        (sample, "hi", "--hf-model is required (see --help)"),
        (evaluate, "--run my_run", "--hf-model is required (see --help)"),
        (runs, "resubmit", "NAME is required; a shell variable may be unset (see --help)"),
        (runs, "show", "NAME is required; a shell variable may be unset (see --help)"),
        (runs, "", "COMMAND is required: one of list, show, "),
        (tokenizer, "--input README.md --output-dir /", "--output-dir /: name a folder below it; a shell variable in front"),
        (export_main, "--source / --output-path x", "--source /: no NeMo 2 folder; a shell variable in front"),
        (dataset, "merge a b", "merge: there is no such folder or pair; did you mean join?"),
        (dataset, "show a", "show: there is no such folder or pair; give the data alone, which is checked and counted"),
        (sample, "tests hi", "--hf-model is required; did you mean --hf-model tests? (see --help)"),
        (import_main, "tests out2", "--source is required; did you mean --source tests --output-path out2? (see --help)"),
        (runs, "compare one", "compare needs two runs or more; a shell variable may be unset"),
        (dataset, "jion a b", "jion: there is no such folder or pair; did you mean join?"),
        (dataset, "--tokenizer .", "DIR_OR_PREFIX is required; a shell variable may be unset (see --help)"),
        (export, "--push-to-hub my_run", "RUN is required: --push-to-hub has taken 'my_run' for its own value; a shell variable"),
        (
            runs,
            "average --decay-style my_run",
            "argument --decay-style: invalid choice: 'my_run' (choose from 'minus_sqrt', 'linear', 'cosine', 'exponential'); the word"
            " behind the flag is its value: a shell variable may be unset",
        ),
        (runs, "show --output-dir exp", "NAME is required: --output-dir has taken 'exp' for its own value"),
        (runs, "list nosuch", "unrecognized arguments: nosuch; `list` shows every run below --output-dir; `show nosuch` shows one (see --help)"),
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


@pytest.mark.parametrize(
    "command", [sample, evaluate, runs, tokenizer, preprocess, dataset, wikipedia, import_main, export_main]
)
@pytest.mark.parametrize("words", [[""], ["--foo", ""], ["--foo", "x", ""]])
def test_an_empty_word_is_told_from_none(
    command: Callable[..., int], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`"$EXTRA"` in a script."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(Refusal):
        command()


def test_a_variable_that_is_unset_is_thought_of_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for main, words in (
        (tokenizer, [""]),
        (export_main, [""]),
        (runs, [""]),
        (sample, ["--hf-model", "x", "--tokens", "hi"]),
    ):
        monkeypatch.setattr(sys, "argv", ["command", *words])
        with pytest.raises(Refusal, match="a shell variable may be unset"):
            main()
    with pytest.raises(Refusal, match=r"^--fp8: an empty value; a shell variable may be unset"):
        command_line.parse(["--fp8="])
    for words in (["--list-models", ""], ["--list-models="], ["--allow-change"]):
        with pytest.raises(Refusal, match=f"^{words[0].rstrip('=')}: .*a shell variable may be unset"):
            command_line.parse(words)
    assert command_line.parse(["--list-models"]).list_models == ""


def test_an_empty_word_is_shown() -> None:
    parser = Parser()
    with pytest.raises(Refusal, match=r"^unrecognized arguments: ''; it is empty; a shell variable may be unset"):
        parser.parse_args([""])
    with pytest.raises(Refusal, match=r"^unrecognized arguments: --foo '' "):
        parser.parse_args(["--foo", ""])


def said_by(command: Callable[..., int], words: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command refuses of these words; empty where they are well formed and what they name isn't there."""
    monkeypatch.setattr(sys, "argv", ["command", *words.split()])
    with pytest.raises(Refusal) as refusal:
        command()
    return "\n".join(refusal.value.problems)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (sample, "--hf_model /nowhere --tokens=3 TEXT"),
        (evaluate, "--hf_model /nowhere --run /nowhere"),
        (runs, "list --output_dir /nowhere"),
        (runs, "--output_dir=/nowhere list"),
        (tokenizer, "--input /nowhere --output_dir /nowhere --max_mb=3 --json_key text"),
        (preprocess, "--input /nowhere --output_dir /nowhere --tokenizer /nowhere --no_append_eod --json_keys a_b"),
        (dataset, "/nowhere --tokenizer x --document 1"),
        (wikipedia, "--output_dir /nowhere --keep_metadata --date nowhere"),
        (import_main, "--source /nowhere --output_path /nowhere --no_verify"),
        (export_main, "--source /nowhere --output_path /nowhere --hf_tokenizer x"),
    ],
)
def test_flags_may_be_written_with_underscores(
    command: Callable[..., int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = said_by(command, words, monkeypatch)
    assert "nowhere" in said and "unrecognized" not in said and "required" not in said, said


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (sample, "--hf-model x --max_new_tokens 9 hi", "--max_new_tokens 9; did you mean --tokens?"),
        (sample, "--max-new-tokens=9 hi", "--max-new-tokens=9; did you mean --tokens? (see --help)\n--hf-model is required"),
        (sample, "--hf_modell x hi", "--hf_modell x; did you mean --hf-model? (see --help)"),
        (sample, "--hf-model x --prompt hi", "--prompt hi; the text stands by itself, in quotes: --hf-model x hi (see --help)"),
        (tokenizer, "--input a --output-dir b --vocab-size 9", "--vocab-size 9; did you mean --vocabulary?"),
        (tokenizer, "--input a --vocab_size 9", "--vocab_size 9; did you mean --vocabulary? (see --help)\n--output-dir is required"),
        (tokenizer, "--input a --model b", "--model b; --output-dir DIR is the folder to write; --extend DIR adds to"),
        (import_main, "--model a", "--model a; --source takes a model's folder or Hub id; --model-name a NeMo class"),
        (dataset, "d --num-documents 1", "--num-documents 1; it prints one document, --document N, and counts all: leave it out"),
        (tokenizer, "--input a --output b", "--output b; did you mean --output-dir? (see --help)"),
        (evaluate, "--model a --run b", "--model a; did you mean --hf-model? (see --help)"),
        (import_main, "--input a --output-dir b", "--input a --output-dir b; --input: did you mean --source?; --output-dir: did you mean --output-path?"),
        (export_main, "--source a --output b", "--output b; did you mean --output-path? (see --help)"),
        (runs, "list --all", "--all (see --help)"),
        (runs, "logs x --folow", "--folow; did you mean --follow? (see --help)"),
        (runs, "show --outputdir x", "--outputdir x; did you mean --output-dir? (see --help)"),
    ],
)  # fmt: skip
def test_an_unknown_flag_is_named_beside_a_missing_one(
    command: Callable[..., int], words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """argparse would only say what is missing; of a flag that the unknown one was meant for, nothing more is said."""
    found = said_by(command, words, monkeypatch)
    assert found.startswith(f"unrecognized arguments: {said}"), found
    assert found.count("required") == said.count("required")


def test_a_mistyped_subcommand(monkeypatch: pytest.MonkeyPatch) -> None:
    said = said_by(runs, "lst", monkeypatch)
    assert "invalid choice: 'lst'" in said and "; did you mean list? (see --help)" in said, said


TAKING_A_RUN = ("show", "report", "status", "logs", "cancel", "resubmit", "average")


class _Made(Exception):
    pass


ALL = (preprocess, sample, evaluate, runs, tokenizer, dataset, import_main, export_main, wikipedia, export, report)


def parser_of(command: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Parser:
    """The parser that a command makes."""

    def stop(made: Parser, *_: object) -> None:
        raise _Made(made)

    monkeypatch.setattr(Parser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(_Made) as caught:
        command()
    return caught.value.args[0]


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.__module__.rpartition("nemo_workflow.")[2])
def test_the_help_tells_what_a_flag_is_without_being_given(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for action in _actions(parser_of(command, monkeypatch)):
        # a subcommand of runs leaves its --output-dir to the one before it, with the same default
        left = action.default == argparse.SUPPRESS and action.dest != "output_dir"
        if action.option_strings and action.nargs != 0 and action.default not in (None, [], False) and not left:
            assert "default" in str(action.help), (action.option_strings, action.default, action.help)


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.__module__.rpartition("nemo_workflow.")[2])
def test_what_other_tools_call_a_flag_leads_to_one_that_is_there(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is one of ours, and the flags that are named are the command's own, or stand behind the name of another."""

    made = parser_of(command, monkeypatch)
    ours = {name for action in _actions(made) for name in action.option_strings}
    assert made.meanings and not ours & made.meanings.keys()
    for said in made.meanings.values():
        own = re.split(r"python |`hf |pretrain_llm|ckpt_conversion", said)[0]
        assert set(re.findall(r"--[a-z][\w-]*", own)) <= ours, said


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (preprocess, "tok t.txt p13", "; did you mean --tokenizer tok --input t.txt --output-dir p13? (see"),
        (preprocess, "t.txt tok p13", "; did you mean --input t.txt --tokenizer tok --output-dir p13? (see"),
        (preprocess, "tok --input t.txt --output-dir o", "; did you mean --tokenizer tok? (see"),
        (preprocess, "tok tok", "; did you mean --tokenizer tok? (see"),
        (preprocess, "p13 tok", "; did you mean --input p13? (see"),
        (tokenizer, "t.txt p13", "--input, --output-dir are required; did you mean --input t.txt --output-dir p13? (see"),
        (import_main, "tok p13", "--source is required; did you mean --source tok --output-path p13? (see"),
        (export_main, "tok p13", "--source, --output-path are required; did you mean --source tok --output-path p13? (see"),
        (tokenizer, "--input -dash.txt --output-dir o", "--input: -dash.txt begins with a dash, as flags do: type --input ./-dash.txt"),
        (tokenizer, "--input t.txt --output-dir -dir", "--output-dir: -dir begins with a dash, as flags do: type --output-dir ./-dir"),
        (tokenizer, "--input t.txt -dash.txt --output-dir o", "-dash.txt; a path that begins with a dash is typed ./-dash.txt (see"),
        (tokenizer, "--input -none.txt --output-dir o", "--input: no value; a shell variable may be unset: give a value"),
    ],
)  # fmt: skip
def test_words_without_flags_and_paths_like_flags(
    command: Callable[..., int], words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer's folder isn't taken for the text, and a path that is there is no flag."""
    monkeypatch.chdir(tmp_path)
    write_tokenizer(Path("tok"), 9)
    for name in ("t.txt", "-dash.txt"):
        Path(name).write_text("text")
    Path("-dir").mkdir()
    found = said_by(command, words, monkeypatch)
    assert said in found, found


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (preprocess, "--model x --input a --output-dir o", "--model x; did you mean --tokenizer? (see --help)"),
        (preprocess, "--seq-length 3", "--seq-length 3; texts are kept whole here; pretrain_llm.py --seq-length cuts them"),
        (preprocess, "text.txt --output-dir o", "text.txt; did you mean --input text.txt? (see --help)"),
        (import_main, "model --source x", "model; did you mean --source model? (see --help)"),
        (dataset, "join --output x a b", "--output x; the names stand by themselves: join OUT A B"),
        (preprocess, "--nodes 2 --input a", "--nodes 2; did you mean --num-nodes?"),
        (preprocess, "--encoding latin1 --input a", "--encoding latin1; text is read as UTF-8: iconv"),
        (evaluate, "--hf-model a --run b --output c", "--output c; both losses are printed"),
        (export_main, "--source x --output-path y --hf-model z", "--hf-model z"),
        (import_main, "--source x --output-path y --branch z", "--branch z; did you mean --revision?"),
        (preprocess, "--force --input a", "--force; did you mean --overwrite?"),
        (evaluate, "--hf-model x --run y --dataset-dir d", "--dataset-dir d; the samples are those of the last validation of --run"),
        (evaluate, "--hf-model x --run y --input d", "--input d; the samples are those of the last validation of --run"),
        (sample, "--hf-model x --top-p 3 hi", "--top-p 3; --temperature and --seed are what it takes"),
        (sample, "--run r hi", "--run r; --hf-model takes an exported model: python -m nemo_workflow.export r makes"),
        (tokenizer, "--input a --output-dir b --model-type bpe", "--model-type bpe; it learns a byte-level BPE: leave it out"),
        (export, "r --output-path o", "--output-path o; it is written to hf_model/ in the run's folder"),
        (import_main, "--source x --tp 2", "--tp 2; a checkpoint fits every layout: leave it out"),
        (export_main, "--source x --output-path y --tokenizer z", "--tokenizer z; did you mean --hf-tokenizer?"),
        (wikipedia, "--limit 5", "--limit 5; did you mean --max-pages?"),
        (dataset, "--dataset-dir x", "--dataset-dir x; the folder or pair stands by itself: python -m nemo_workflow.dataset DIR"),
        (report, "r --run x", "--run x; the run's folder stands by itself"),
        (report, "r --output o", "--output o; python -m nemo_workflow.runs report r --output o writes it anywhere"),
        (report, "r --output-dir e", "--output-dir e; python -m nemo_workflow.runs report r --output-dir e finds the run there"),
        (report, "--run=r", "--run=r; the run's folder stands by itself: python -m nemo_workflow.report r (see --help)"),
        (export, "--run r", "--run r; the run stands by itself: python -m nemo_workflow.export r (see --help)"),
        (evaluate, "--hf-model x --run r --step 5", "--step 5; --hf-model is what is measured: python -m nemo_workflow.export r --step 5 exports"),
        (evaluate, "--hf-model x --step", "--step; --hf-model is what is measured: python -m nemo_workflow.export RUN --step N exports"),
        (sample, "--hf-model x --prompt Once upon a --tokens 3", "--prompt Once; the text stands by itself, in quotes: --hf-model x 'Once upon a' (see"),
        (sample, "--hf-model x --prompt=Once", "--prompt=Once; the text stands by itself, in quotes: --hf-model x Once (see --help)"),
        (sample, "--nemo-model n hi", "--nemo-model n; --hf-model takes an exported model: python -m nemo_workflow.export RUN makes"),
        (runs, "show --name r", "--name r; the run's name stands by itself: show r (see --help)"),
        (runs, "logs r --tail 5", "--tail 5; python -m nemo_workflow.runs logs r | tail -n 5 prints the last lines (see --help)"),
        (runs, "logs -n 5 r", "-n 5; python -m nemo_workflow.runs logs r | tail -n 5 prints the last lines (see --help)"),
        (runs, "logs r --output-dir e --lines", "--lines; python -m nemo_workflow.runs --output-dir e logs r | tail -n 20 prints the"),
        (runs, "list --version", "--version; python pretrain_llm.py --version prints the versions (see --help)"),
        (sample, "--hf-model x --version hi", "--version hi; python pretrain_llm.py --version prints the versions (see --help)"),
        (
            preprocess,
            "--input a --tokenizer-type X --tokenizer-model Y --output-prefix p",
            "--tokenizer-type X --tokenizer-model Y --output-prefix p; --tokenizer-type: the files of --tokenizer say what it is: leave it"
            " out; --tokenizer-model: did you mean --tokenizer?; --output-prefix: did you mean --output-dir? (see --help)",
        ),
        (preprocess, "--input a --vocab-file v --merge-file m", "--vocab-file v --merge-file m; did you mean --tokenizer? (see --help)"),
        (
            export_main,
            "--input a --output b",
            "--input a --output b; --input: did you mean --source?; --output: did you mean --output-path? (see --help)",
        ),
        (import_main, "--source a --colour --output=b", "--colour --output=b; --output: did you mean --output-path? (see --help)"),
        (runs, "list --out x", "--out x; did you mean --output-dir?"),
        (runs, "--list", "--list; a command has no dashes: list"),
    ],
)  # fmt: skip
def test_a_flag_of_another_tool_in_each_command(
    command: Callable[..., int], words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said_by(command, words, monkeypatch).startswith(f"unrecognized arguments: {said}")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ls", "did you mean list?"), ("ps", "did you mean list?"), ("info", "did you mean show?"), ("kill", "did you mean cancel?"),
        ("restart", "did you mean resubmit?"), ("diff", "did you mean compare?"), ("lst", "did you mean list?"),
        ("export", "python -m nemo_workflow.export x exports a run"),
    ],
)  # fmt: skip
def test_a_subcommand_under_another_tools_name(word: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"; {said} (see --help)" in said_by(runs, f"{word} x", monkeypatch)


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (preprocess, "--tokenizer t --output-dir o --input-dir /no_such", "--input-dir /no_such: no such folder"),
        (preprocess, "--tokenizer t --output-dir o --input /no_such", "--input /no_such: no such file"),
        (sample, "--hf-model /no_such hi", "--hf-model /no_such: no such folder"),
        (evaluate, "--hf-model /no_such --run r", "--hf-model /no_such: no such folder"),
        (export_main, "--source /no_such --output-path o", "--source /no_such: there is no such folder"),
        (dataset, "/no_such", "/no_such: no such folder or pair"),
        (runs, "list --output-dir /no_such", "--output-dir /no_such: no such folder"),
    ],
)  # fmt: skip
def test_a_path_below_a_variable_that_is_unset(
    command: Callable[..., int], words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{said} (a shell variable in front of it may be unset)" in said_by(command, words, monkeypatch)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs below nemo_experiments/, of which `texts` is exported, one in exp/, and two folders."""
    monkeypatch.chdir(tmp_path)
    for run in ("nemo_experiments/texts", "nemo_experiments/my run", "exp/other"):
        Path(run).mkdir(parents=True)
        (Path(run) / "plan.json").write_text("{}")
    for folder in ("conv/hf", "nemo_experiments/texts/hf_model"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (evaluate, ["texts"], "--hf-model, --run are required; did you mean --run texts?"),
        (evaluate, ["conv/hf"], "--hf-model, --run are required; did you mean --hf-model conv/hf?"),
        (evaluate, ["conv/hf", "nemo_experiments/texts"], "; did you mean --hf-model conv/hf --run nemo_experiments/texts?"),
        (evaluate, ["--run", "texts", "conv/hf"], "--hf-model is required; did you mean --hf-model conv/hf?"),
        (evaluate, ["--output-dir", "exp", "other"], "; did you mean --run other?"),
        (evaluate, ["other"], "--hf-model, --run are required; the runs are 'my run', texts (see --help)"),
        (sample, ["texts", "hi"], "; did you mean --hf-model nemo_experiments/texts/hf_model?"),
        (sample, ["hi you", "my run"], "; did you mean --hf-model 'my run'?"),
        (sample, ["hi" * 200], "--hf-model is required (see --help)"),
        (export_main, ["conv/hf"], "--source, --output-path are required; did you mean --source conv/hf?"),
        (export_main, ["--output-path", "o", "conv/hf"], "--source is required; did you mean --source conv/hf?"),
        (export_main, ["conv/no"], "; did you mean --source conv/no?"),
    ],
)  # fmt: skip
def test_a_word_without_its_flag(
    command: Callable[..., int], words: list[str], said: str, folders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(Refusal) as refusal:
        command()
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("texts", "; did you mean show texts? (see --help)"),
        ("nemo_experiments/texts --follow", "; did you mean show nemo_experiments/texts? (see --help)"),
        ("other --output-dir=exp", "; did you mean show other? (see --help)"),
        ("--output-dir exp other", "; did you mean show other? (see --help)"),
        ("other", "'average') (see --help)"),
    ],
)
def test_a_run_where_a_subcommand_is_expected(
    words: str, said: str, folders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = said_by(runs, words, monkeypatch)
    assert found.startswith("argument COMMAND: invalid choice: ") and found.endswith(said) and "flag" not in found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rm texts", "a run is a folder: rm -r nemo_experiments/texts removes it"),
        ("delete --yes texts", "a run is a folder: rm -r nemo_experiments/texts removes it"),
        ("rm -r exp/other", "a run is a folder: rm -r exp/other removes it"),
        ("rm other --output-dir exp", "a run is a folder: rm -r exp/other removes it"),
        ("rm texts exp/other", "a run is a folder: rm -r nemo_experiments/texts exp/other removes them"),
        ("rm", "a run is a folder below --output-dir (nemo_experiments), which rm -r removes; the runs are 'my run', texts"),
        ("rm other", "nemo_experiments (--output-dir); there are: my run, texts"),
        ("rm other --output-dir no", "--output-dir {}/no: no such folder; give the one that the runs were started with"),
    ],
)  # fmt: skip
def test_what_removes_a_run_can_be_typed(words: str, said: str, folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = said_by(runs, words, monkeypatch)
    assert found.endswith(f"{said.format(Path.cwd())} (see --help)")


@pytest.mark.parametrize(
    ("words", "cancel"),
    [
        ("rm other --output-dir exp", "--output-dir exp cancel other"),
        ("rm exp/other", "cancel {}/exp/other"),
    ],
)
def test_a_run_that_runs_is_ended_before_it_is_removed(
    words: str, cancel: str, folders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with liveness.lock_run(Path("exp/other")):
        found = said_by(runs, words, monkeypatch)
        command = f"python -m nemo_workflow.runs {cancel.format(Path.cwd())}"
        assert found.endswith(f"; other is running: {command} ends it, then rm -r exp/other (see --help)")
        monkeypatch.setattr(control, "_stop_local", lambda *_: (_ for _ in ()).throw(_Made))
        monkeypatch.setattr(sys, "argv", shlex.split(command)[2:])
        with pytest.raises(_Made):
            runs()


@pytest.fixture
def many(folders: None) -> None:
    """Eight runs, r7 the one that was last at work, though r0 was started last."""
    for number in range(8):
        Path(f"many/r{number}").mkdir(parents=True)
        for file, at in (("plan.json", 10 - number), ("metrics.jsonl", 100 + number)):
            (Path(f"many/r{number}") / file).write_text("{}")
            os.utime(Path(f"many/r{number}") / file, (at, at))
    Path("many/preprocessed").mkdir()


NEWEST = "the newest runs are r7, r6, r5, r4, r3 and 3 more (python -m nemo_workflow.runs --output-dir many list)"


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        *((runs, f"--output-dir many {name}", f"NAME is required; {NEWEST}; a shell variable may be unset") for name in TAKING_A_RUN),
        (runs, "show --output-dir=many", f"NAME is required; {NEWEST}; a shell variable may be unset"),
        (runs, "compare --output-dir many", f"RUN is required; {NEWEST}; a shell variable may be unset"),
        (runs, "compare r1 --output-dir many", f"compare needs two runs or more; {NEWEST}; a shell variable may be unset"),
        (runs, "--output-dir many rm", f"which rm -r removes; {NEWEST}"),
        (export, "--output-dir many", f"RUN is required; {NEWEST}; a shell variable may be unset"),
        (evaluate, "--hf-model x --output-dir many", f"--run is required; {NEWEST}"),
        (evaluate, "--output-dir many", f"--hf-model, --run are required; {NEWEST}"),
        (report, "", "RUN is required; the runs are 'my run', texts; a shell variable may be unset"),
        (runs, "show --output-dir exp", "NAME is required; the one run is other; a shell variable may be unset"),
        (runs, "show --output-dir conv", "NAME is required; a shell variable may be unset"),
        (sample, "--hf-model no hi", "export a checkpoint first: python -m nemo_workflow.export 'my run'"),
    ],
)  # fmt: skip
def test_the_newest_runs_are_named_where_one_is_missing(
    command: Callable[..., int], words: str, said: str, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime("nemo_experiments/texts/plan.json", (9, 9))
    assert said_by(command, words, monkeypatch).removesuffix(" (see --help)").endswith(said)


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (runs, "show a b", "b; show takes one run at a time; python -m nemo_workflow.runs compare a b puts them side by side"),
        (runs, "report a b c --output-dir e", "report takes one run at a time; python -m nemo_workflow.runs --output-dir e compare a b c puts"),
        (runs, "status a b", "b; status takes one run at a time; python -m nemo_workflow.runs list shows all (see --help)"),
        (runs, "logs --rank 1 a b", "b; logs takes one run at a time (see --help)"),
        (runs, "logs a -f true", "true; -f takes no value; type -f alone (see --help)"),
        (runs, "cancel a b", "b; cancel takes one run at a time (see --help)"),
        (runs, "average a b", "b; average takes one run at a time (see --help)"),
        (runs, "resubmit texts b", "b: resubmit takes one run at a time; flags of pretrain_llm.py may stand behind it"),
        (runs, "show my run", "run; did you mean show 'my run'? (see --help)"),
        (report, "a b", "b; it takes one run at a time; python -m nemo_workflow.runs compare a b puts them side by side (see --help)"),
        (export, "a b", "b; it takes one run at a time (see --help)"),
    ],
)  # fmt: skip
def test_a_second_run(
    command: Callable[..., int], words: str, said: str, folders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in said_by(command, words, monkeypatch)


def test_a_run_is_shown_to_be_exported_where_it_is(folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    said = said_by(runs, "export --output-dir exp other", monkeypatch)
    assert said.endswith("; python -m nemo_workflow.export --output-dir exp other exports a run (see --help)")
    monkeypatch.setattr(sys, "argv", ["command", "show", "--name", "my run\\1"])
    with pytest.raises(Refusal, match=re.escape(r"stands by itself: show 'my run\1' (see --help)")):
        runs()


def test_an_export_elsewhere_names_the_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fake_runs.write_run(tmp_path / "my run")
    said = said_by(export, f"run --output-path o --output-dir {tmp_path}", monkeypatch)
    assert "--source CHECKPOINT --output-path o writes" in said
    monkeypatch.setattr(sys, "argv", ["command", str(plan.folder), "--output-path", "o"])
    newest = plan.folder / "checkpoints" / "step_00000100"
    with pytest.raises(Refusal, match=f"--source '{newest}' --output-path o writes it anywhere"):
        export()


def test_a_value_that_looks_like_a_flag_is_no_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said_by(sample, "--temperature -1", monkeypatch).startswith("--hf-model, TEXT are required")


def test_paths_of_a_pattern_are_told_from_words_too_many(tmp_path: Path) -> None:
    """step_* without quotes, for a flag that takes one folder."""
    parser = Parser()
    parser.add_argument("--source")
    steps = [str(tmp_path / f"step_{number}") for number in (1, 2, 3)]
    for step in steps:
        Path(step).mkdir()
    with pytest.raises(Refusal, match=rf"--source takes one, and got 3 .*give one of them, such as {steps[-1]} "):
        parser.parse_args(["--source", *steps])
    with pytest.raises(Refusal, match="each value follows its flag"):
        parser.parse_args(["--source", steps[0], "word"])


def test_a_hub_id_where_a_nemo_folder_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = said_by(export_main, "--source gpt2 --output-path o", monkeypatch)
    assert "; a model of the Hugging Face Hub goes to convert_from_hf_to_nemo2.py" in said
