"""`--help`: a screen for a first run, a group by its word, everything; a shell's completion of the same table."""

from __future__ import annotations

import re
import shlex
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
    from nemo_workflow.config import completion
    from nemo_workflow.utils.errors import Refusal

    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(Refusal, match="pip install shtab"):
        completion.script("bash")


SHELLS = {shell: shutil.which(shell) for shell in ("bash", "fish")}
# words typed, what Tab proposes for the last of them
COMPLETED = (
    ("--tensor-m", "--tensor-model-parallel-size"),
    ("--executor s", "slurm"),
    ("-M llama_1", "llama_125m"),
    ("--gpu h2", "h200"),
)
CALLS = ("pretrain_llm.py", "python /somewhere/pretrain_llm.py")


def ask_bash(script: str, line: str) -> list[str]:
    words = shlex.split(line)
    tail = f"""
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
spec=$(complete -p {words[0]}); function=${{spec#*-F }}; ${{function%% *}}; printf '%s\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script + tail], capture_output=True, text=True, check=False)
    return done.stdout.split()


def ask_fish(script: str, line: str) -> list[str]:
    code = f"{script}\ncomplete -C {shlex.quote(line)}"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=False)
    return [found.split("\t")[0] for found in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_flags_and_values(shell: str) -> None:
    """Also where the script is called by python, as on every page, and with one spelling of each flag."""
    pytest.importorskip("shtab")
    if not SHELLS[shell]:
        pytest.skip(f"needs {shell}")
    script = run("--completion", shell)
    assert script.returncode == 0, script.stderr
    ask = ask_bash if shell == "bash" else ask_fish
    for command in CALLS:
        for words, wanted in COMPLETED:
            assert wanted in ask(script.stdout, f"{command} {words}"), (command, words)
        assert ask(script.stdout, f"{command} --tensor-m") == ["--tensor-model-parallel-size"]
