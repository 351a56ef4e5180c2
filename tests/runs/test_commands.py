"""`python -m nemo_workflow` alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nemo_workflow import PACKAGE
from nemo_workflow.__main__ import MODULES, main
from nemo_workflow.utils.errors import Refusal


def test_every_command_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    modules = {path.stem for path in (PACKAGE / "runs" / "commands").glob("[!_]*.py")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert MODULES.keys() == modules | packages
    monkeypatch.setattr(sys, "argv", ["nemo_workflow"])
    main()
    said = capsys.readouterr().out
    assert "usage: python -m nemo_workflow.COMMAND" in said and all(f"  {name} " in said for name in MODULES)


def test_a_command_after_a_blank_is_told_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nemo_workflow", "runs", "list"])
    with pytest.raises(Refusal, match=r"runs: each command is a module: python -m nemo_workflow\.runs"):
        main()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train", "python pretrain_llm.py trains"),
        ("ls", "python -m nemo_workflow.runs COMMAND"),
        ("evalute", r"did you mean python -m nemo_workflow\.evaluate\?"),
        ("xyz", "python -m nemo_workflow lists them"),
    ],
)
def test_a_word_that_is_no_command_is_told_one(word: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nemo_workflow", word])
    with pytest.raises(Refusal, match=f"^{word}: no command; {said}"):
        main()


def test_it_runs_as_a_module() -> None:
    words = [sys.executable, "-m", "nemo_workflow"]
    assert "runs " in subprocess.run(words, capture_output=True, text=True, check=True).stdout
