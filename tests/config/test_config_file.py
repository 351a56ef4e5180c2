"""--config: each wrong file is met with its line and what to write there, or with the file that was meant."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.config.config_file import read_config
from nemo_workflow.utils.errors import Refusal


def said_of(path: Path | str) -> str:
    with pytest.raises(Refusal) as refusal:
        read_config(str(path))
    return "\n".join(problem.removeprefix(f"--config {path}") for problem in refusal.value.problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-steps: 3\n\tlr: 1\n", ", line 2: a tab, which YAML doesn't take; write `lr: 1` with blanks"),
        ("lr:\t0.001\n", ", line 1: a tab, which YAML doesn't take; write `lr: 0.001` with blanks"),
        ("max-steps: 3\nlr 0.001\nseed: 3\n", ", line 2: `lr 0.001` is no `flag-name: value`; write `lr: 0.001`"),
        ("lr 0.001\n", ", line 1: `lr 0.001` is no `flag-name: value`; write `lr: 0.001`"),
        ("# first\nmax-steps: 3\nlr=0.001\n", ", line 3: `lr=0.001` is no `flag-name: value`; write `lr: 0.001`"),
        ("max-steps:3\nlr: 1\n", ", line 1: `max-steps:3` is no `flag-name: value`; write `max-steps: 3`"),
        ("--max-steps 10\n--lr 3\n", ", line 1: `--max-steps 10` is no `flag-name: value`; write `max-steps: 10`"),
        ("learning_rate 1e-3\n", ", line 1: `learning_rate 1e-3` is no `flag-name: value`; write `learning_rate: 1e-3`"),
        ("max-steps: 3\n  lr: 3\n", ", line 2: blanks before the key; write `lr: 3`"),
        ("experiment: a: b\n", ", line 1: mapping values are not allowed here; put the value in quotes: `experiment: 'a: b'`"),
        ("experiment: %x\n", ", line 1: found character '%' that cannot start any token; put the value in quotes: `experiment: '%x'`"),
        ("lr: '3\nmax-steps: 3\n", ", line 1: found unexpected end of stream; close the quotes"),
        ("max-steps:\u00a03\n", ", line 1: holds a NO-BREAK SPACE (U+00A0), as text programs put it; write `max-steps: 3`"),
        ("seed: 3\nlr: 3\x07\n", ", line 2: the sign U+0007, which YAML doesn't take; take it out"),
        ("", ": has no lines; lines `flag-name: value` are expected there"),
        ("# nothing\n", ": has no lines; lines `flag-name: value` are expected there"),
        ("- a\n- b\n", ": no key: lines `flag-name: value` are expected there"),
        ("a: [", ", line 1: expected the node content"),
        ('{"a": 1', ", line 1: expected ',' or '}', but got '<stream end>'; lines `flag-name: value` are expected there"),
        ("lerning-rate: 3\n", ": unknown key 'lerning-rate'; did you mean lr?"),
        ("optimizer.lr: 3\n", ": unknown key 'optimizer.lr'; did you mean lr?"),
        (
            "training:\n  steps: 100\n  lr: 0.1\nmodel-name: x\n",
            ": training: a section, and this file is flat: each flag is a line of its own: `max-steps: 100`, `lr: 0.1`",
        ),
        (
            "optimizer:\n  lr: 3\n  inner:\n    foo: 3\n    dataset_dir: [a, b]\n",
            ": optimizer: a section, and this file is flat: each flag is a line of its own: `lr: 3`, `dataset-dir: [a, b]`;"
            " no flag is called optimizer.inner.foo",
        ),
        ('{"model_type": "llama", "vocab_size": 3}', ": a model's run.yaml; --hf-model-id "),
        ('{"tokenizer_class": "X"}', ": a tokenizer's run.yaml; --hf-model-id "),
        ("lr: 0.1\nmax-steps:\n", ", line 2: max-steps: no value; write it behind the colon, or take the line out"),
        ("max_steps:   # later\n", ", line 1: max_steps: no value; write it behind the colon, or take the line out"),
        ("split: [1, 0, 0]\n", ": split: [1, 0, 0]: expected one value, not a list: 1,0,0"),
        ("lr: 3\n---\nseed: 3\n", ", line 2: a second document begins (---); keep one"),
        ('{"final_loss": 3.0}', ": a run's summary; its flags are in the config.yaml of the run's folder"),
        ('{"settings": {}, "schedule": {}}', ": a run's plan; its flags are in the config.yaml of the run's folder"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_met_with_its_line_and_the_mend(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    found = said_of(file)
    assert found.startswith(said) and "\n" not in found


@pytest.mark.parametrize(
    "text", ["max-steps 3\n", "max-steps=3", "max-steps:3", "--max_steps: 3", "\tmax-steps: 3", "x: 1\n max-steps: 3"]
)
def test_the_line_that_is_to_be_written_is_taken(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    if "--" not in text:
        written = re.findall("write `([^`]+)`", said_of(file))
        file.write_text(written[0])
    assert read_config(str(file)) == {"max_steps": 3}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("max-steps: 3\n".encode("utf-16"), ": UTF-16; convert it first: iconv -f UTF-16 -t UTF-8 "),
        ("max-steps: 3\n".encode("utf-16-le"), ": UTF-16LE; convert it first: iconv -f UTF-16LE -t UTF-8 "),
        (b"max-steps: 3\n# caf\xe9\n", ", line 2: byte 0xe9 is no UTF-8; if the file is Latin-1, convert it: iconv -f LATIN1"),
    ],
)  # fmt: skip
def test_a_file_in_another_coding(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(data)
    assert said_of(file).startswith(said)
    os.system(re.findall("iconv .*", said_of(file))[0].replace("NEW.yaml", f"{tmp_path}/NEW.yaml"))
    assert read_config(str(tmp_path / "NEW.yaml")) == {"max_steps": 3}


def test_a_file_of_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "text_document.bin").write_bytes(b"\x8b\x03\0\x11\0\xfe\x9c")
    assert said_of(tmp_path / "text_document.bin").startswith(": not a text file; ")


def test_toml_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('name = "x"\n')
    assert said_of(tmp_path / "run.toml").startswith(": TOML, which is not read here; lines `flag-name: value`")


def test_a_runs_plan_or_folder_leads_to_its_config(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"settings": {}, "schedule": {}}')
    (tmp_path / "config.yaml").write_text("lr: 3\n")
    assert said_of(tmp_path / "plan.json") == f": a run's plan; its flags are in {tmp_path}/config.yaml"
    assert said_of(tmp_path) == f": a folder, not a file; the file in it is --config {tmp_path}/config.yaml"


@pytest.mark.parametrize(
    "name", ["laptop.yaml", "examples/laptop.yaml", "../examples/laptop.yml", "laptop", "laptp.yaml"]
)
def test_an_example_is_found_from_any_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said_of(name).endswith(f"; did you mean --config {REPOSITORY}/examples/laptop.yaml?")
    assert said_of("nothing.yaml").endswith(
        f"; lines `flag-name: value` are expected there, as in {REPOSITORY}/examples/laptop.yaml"
    )


@pytest.mark.parametrize("text", ['{"model_type": "llama"}', '{"tokenizer_class": "X"}'])
def test_a_folder_with_a_blank_can_be_typed(tmp_path: Path, text: str) -> None:
    (folder := tmp_path / "my model").mkdir()
    (folder / "config.json").write_text(text)
    assert said_of(folder / "config.json").endswith(f"; --hf-model-id '{folder}' takes its folder")
