"""Commands as they are pasted out of a text program, a web page or a file of Windows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.runs.sample import main as sample
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Refusal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hf-model", "x", "\u2013tokens", "3", "hi"], "\u2013tokens: holds an EN DASH (U+2013), as text programs put it; type --tokens 3"),
        (["--hf-model", "x", "\u2014tokens=3", "hi"], "\u2014tokens=3: holds an EM DASH (U+2014), as text programs put it; type --tokens 3"),
        (["--hf-model", "x", "--hf\u2011model", "3"], "--hf\u2011model: holds a NON-BREAKING HYPHEN (U+2011), as text programs put it; type --hf-model 3"),
        (["--hf-model", "x", "--tokens\u00a03", "hi"], "--tokens\u00a03: holds a NO-BREAK SPACE (U+00A0), as text programs put it; type --tokens 3"),
        (["--hf-model", "\u201cx\u201d", "hi"], "--hf-model \u201cx\u201d: holds a LEFT DOUBLE QUOTATION MARK (U+201C) and a RIGHT DOUBLE QUOTATION MARK (U+201D), as text programs put it; type --hf-model x"),
        (["--hf-model=\u2018x\u2019", "hi"], "--hf-model \u2018x\u2019: holds a LEFT SINGLE QUOTATION MARK (U+2018) and a"),
        (["--hf-model", "x\r", "hi"], "--hf-model x: a carriage return follows, as in files of Windows: take it out of the script, sed -i 's/\\r$//' SCRIPT"),
        (["--hf-model", "x", "\u201cOnce", "upon", "a\u201d"], 'unrecognized arguments: upon a\u201d; quotes of a text program, such as \u201c and \u201d, are letters to the shell: type "Once upon a"'),
        (["-hf-model", "x", "hi"], "-hf-model: a long flag has two dashes: type --hf-model x"),
        (["-hf_model=x", "hi"], "-hf_model: a long flag has two dashes: type --hf-model=x"),
        (["--Tokens", "3", "hi"], "--Tokens: capital letters are told from small ones: type --tokens 3"),
        (["tokens=3", "--hf-model", "x", "hi"], "unrecognized arguments: hi"),
    ],
)  # fmt: skip
def test_words_as_a_text_program_leaves_them(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell takes such dashes, quotes and blanks for letters."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(Refusal) as refusal:
        sample()
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    "text", ["\u2013 Hello", "\u201cHello\u201d, he said", "\u201cHello\u201d", "10\u00a0000 years"]
)
def test_a_text_to_continue_may_hold_any_signs(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--hf-model", "/nowhere", text])
    with pytest.raises(Refusal, match=r"^--hf-model /nowhere: no such folder"):
        sample()


def test_a_name_that_is_there_may_hold_any_signs(tmp_path: Path) -> None:
    made = Parser()
    made.add_argument("--input", nargs="+")
    for name in ("a\u00a0b", "\u201cc\u201d"):
        (tmp_path / name).write_text("")
        assert made.parse_args(["--input", str(tmp_path / name)]).input == [str(tmp_path / name)]
    with pytest.raises(Refusal, match=r'^--input: quotes of a text program.*: type --input "my data"$'):
        made.parse_args(["--input", "\u201cmy", "data\u201d"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("\u2013fp8 --lr 3", "\u2013fp8: holds an EN DASH (U+2013), as text programs put it; type --fp8"),
        ("-fp8 --lr 3", "-fp8: a long flag has two dashes: type --fp8"),
        ("\u2013hf-token abc", "--hf-token: holds an EN DASH (U+2013), as text programs put it; type --hf-token ***"),
        ("\u2013hf-token=abc", "--hf-token: holds an EN DASH (U+2013), as text programs put it; type --hf-token ***"),
        ("-hf-token abc", "-hf-token: a long flag has two dashes: type --hf-token ***"),
        ("--HF-token=abc", "--HF-token: capital letters are told from small ones: type --hf-token ***"),
        ("--hf-token \u201cabc\u201d", "--hf-token: quotes of a text program, such as \u201c and \u201d, are letters to the shell: type it without"),
    ],
)  # fmt: skip
def test_no_flag_is_shown_for_a_value_and_no_secret(words: str, said: str) -> None:
    with pytest.raises(Refusal) as refusal:
        command_line.parse(words.split(" "))
    assert str(refusal.value) == said


def test_a_value_is_shown_as_it_is_typed() -> None:
    with pytest.raises(Refusal, match=r"type --sample 'Once upon'$"):
        command_line.parse(["\u2013sample", "Once upon"])
