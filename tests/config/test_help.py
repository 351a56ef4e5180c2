"""`--help`: a screen for a first run, a group by its word, everything; a shell's completion of the same table."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_workflow.config import help as help_page
from nemo_workflow.config.flags import GROUPS, TABLE

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "pretrain_llm.py", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_first_screen_shows_what_a_first_run_needs() -> None:
    began = time.monotonic()
    done = run("--help")
    print(f"{time.monotonic() - began:.2f} s")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) <= 50 and max(map(len, lines)) <= help_page.WIDTH
    marked = [line.split()[1] for line in lines if line.startswith("* ")]
    assert marked == [f"--{option.name}" for option in TABLE if option.required]
    assert "--help all" in done.stdout and "examples/laptop.yaml" in done.stdout
    assert run("-h").stdout == done.stdout


def test_everything_is_in_help_all_once_and_in_one_spelling() -> None:
    done = run("--help", "all").stdout
    assert max(map(len, done.splitlines())) <= help_page.WIDTH
    for option in TABLE:
        rows = re.findall(rf"^[ *] (?:-\w+, )?--{option.name}(?![\w-]).*$", done, re.MULTILINE)
        assert len(rows) == 1, option.name
    assert not re.search(r"--\w+_\w", done)


@pytest.mark.parametrize("word", help_page.TOPICS)
def test_a_group_by_its_word(word: str) -> None:
    shown, group = help_page.text(word), help_page.TOPICS[word]
    names = set(re.findall(r"^[ *] (?:-\w+, )?--([\w-]+)", shown, re.MULTILINE))
    assert names == {option.name for option in TABLE if option.group == group}
    assert sorted(help_page.TOPICS.values()) == sorted(GROUPS)


def test_another_word_is_refused() -> None:
    done = run("--help", "gpus")
    assert done.returncode == 2 and "slurm" in done.stderr and "usage" not in done.stdout


def test_the_examples_are_files_and_flags() -> None:
    flags = {name for option in TABLE for name in option.spellings}
    for example in help_page.EXAMPLES:
        assert set(re.findall(r" (--?[A-Za-z][\w-]*)", example)) <= flags
        assert all((REPOSITORY / name).is_file() for name in re.findall(r"examples/\S+", example))


def test_completion_without_its_package_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_workflow.config import command_line
    from nemo_workflow.utils.errors import Refusal

    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(Refusal, match="pip install shtab"):
        command_line.completion("bash")


def test_bash_completes_flags_and_values() -> None:
    pytest.importorskip("shtab")
    script = run("--completion", "bash")
    assert script.returncode == 0, script.stderr
    tried = (
        script.stdout
        + "\nCOMP_WORDS=(pretrain_llm.py {words}); COMP_CWORD={last}; {function} && echo ${{COMPREPLY[@]}}"
    )
    function = re.findall(r"^complete .*-F (\w+) ", script.stdout, re.MULTILINE)[0]
    bash = shutil.which("bash") or "bash"
    for words, wanted in (("--tensor-m", "--tensor-model-parallel-size"), ("--executor s", "slurm")):
        tail = (
            tried.replace("{words}", words).replace("{last}", str(len(words.split()))).replace("{function}", function)
        )
        done = subprocess.run(
            [bash, "-c", tail.replace("{{", "{").replace("}}", "}")], capture_output=True, text=True, check=False
        )
        assert wanted in done.stdout.split(), done.stderr
