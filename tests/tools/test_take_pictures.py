"""The pages' pictures: how a terminal becomes one, and that the words in those of the pages are what is printed today."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.launch import dry_run
from nemo_workflow.run_dir import metrics
from tests.places import write_maker, write_pair, write_tokenizer
from tools import take_pictures, terminal_picture

STEP = {
    "event": "step",
    "step": 75,
    "loss": 5.1,
    "grad_norm": 1.0,
    "lr": 1e-3,
    "tokens_per_second": 4e3,
    "memory_bytes": 2 << 30,
}


def labels(text: str) -> list[str]:
    """The words of a text without its numbers, names and units that follow a number."""
    return re.findall(r"[a-z]+", re.sub(r"[\d.,]+\w*", " ", text.lower()))


def test_a_line_that_was_drawn_again_stands_once() -> None:
    output = "starting\r\n\r\x1b[Kstep 1/9\r\x1b[Kstep 2/9\r\x1b[Kstep 2: saved\r\n\r\x1b[Kstep 3/9"
    assert terminal_picture.screen(output) == ["starting", "step 2: saved", "step 3/9"]


def test_a_command_is_recorded_on_a_terminal(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdout.isatty(), os.get_terminal_size().columns); sys.exit(3)"
    screens: list[list[str]] = []
    assert terminal_picture.record([sys.executable, "-c", code], tmp_path, screens.append) == 3
    assert screens[-1] == [f"True {terminal_picture.COLUMNS}"]


def test_a_picture_has_every_word_and_needs_no_network() -> None:
    long = "x" * terminal_picture.COLUMNS + "the rest"
    picture = terminal_picture.svg("python a.py <b>", ["█▂ 5 GiB & more", long], "a run")
    ElementTree.fromstring(picture)
    words = terminal_picture.words_of(picture)
    assert "█▂ 5 GiB &amp; more" in words and "the rest" in words and "a.py &lt;b&gt;" in words
    assert "url(http" not in picture and "@font-face" not in picture and "@import" not in picture


@pytest.mark.parametrize("name", ["live.svg", "plan.svg"])
def test_the_pages_pictures_are_of_no_machine_and_show_their_command(name: str) -> None:
    words = terminal_picture.words_of((take_pictures.FOLDER / name).read_text(encoding="utf-8"))
    command = take_pictures.TRAINING if name == "live.svg" else take_pictures.PLAN
    assert "".join(command.split()) in "".join(words.split())  # it may go on in the next line
    assert set(re.findall(r"(?<!\w)/\w+", words)) <= {"/tmp"}


def test_the_live_line_is_todays() -> None:
    picture = (take_pictures.FOLDER / "live.svg").read_text(encoding="utf-8")
    shown = terminal_picture.words_of(picture).rpartition(f"step {take_pictures.SHOWN}/")[2]
    today = metrics.progress(STEP, 200, left=95.0, val_loss=6.0, width=terminal_picture.COLUMNS).partition("/")[2]
    assert labels(shown) == labels(today)


@pytest.mark.slow
def test_the_plan_is_todays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of a plan for the picture's command begins as one of the picture's."""
    pair = write_pair(tmp_path / "my_data" / "preprocessed" / "sources_text_document", [4000] * 12000, "int32")
    write_maker(pair, 4000 * 12000, write_tokenizer(tmp_path / "my_tokenizer"))
    monkeypatch.chdir(tmp_path)
    plan = make_plan(command_line.parse(take_pictures.words_of(take_pictures.PLAN)[2:]))
    words = terminal_picture.words_of((take_pictures.FOLDER / "plan.svg").read_text(encoding="utf-8"))
    shown = " ".join(labels(words))
    lines = [
        labels(line.replace(str(tmp_path), "/tmp/nemo_workflow"))[:2]
        for line in dry_run.render(plan, "text").splitlines()
    ]
    assert [line for line in lines if " ".join(line) not in shown] == []
