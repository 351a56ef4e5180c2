"""Names of folders and files that would trip a careless program. A real run in such folders: the scenario `signals`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.e2e.run.scenarios import ODD_NAME
from tests.places import Place

NO_TEXT = os.fsdecode(b"not \xff utf8")


@pytest.mark.parametrize(
    "name", ["two\nlines", "end\n", "tab\t", "esc\x1b[31m", "a b", "$(x)", "-x", "x/../y", NO_TEXT]
)
def test_an_experiment_is_a_plain_name(tmp_path: Path, name: str) -> None:
    place = Place(tmp_path)
    with pytest.raises(Refusal, match="not a valid folder name") as refused:
        make_plan(command_line.parse(place.flags(experiment=name)))
    assert str(refused.value).isprintable()  # what a terminal would obey is shown escaped


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("my run", "my_run"),
        ("my  run!", "my_run_"),
        ("runs/my run", "my_run"),
        ("two\nlines", "two_lines"),
        ("-x", "x"),
        ("a b", "a_b"),
    ],
)
def test_the_name_that_is_taken_is_told(tmp_path: Path, name: str, meant: str) -> None:
    place = Place(tmp_path)
    with pytest.raises(Refusal, match=rf"; did you mean -E {meant}\?$"):
        make_plan(command_line.parse(place.flags(experiment=name)))
    assert place.plan(experiment=meant).folder.name == meant


def test_any_text_makes_a_path(tmp_path: Path) -> None:
    place = Place(tmp_path / ODD_NAME)
    plan = place.plan()
    assert plan.folder == tmp_path / ODD_NAME / "out" / "pretraining"
    assert Plan.from_json(plan.to_json()) == plan
    done = forked.run(["pretrain_llm.py", *place.flags("--dry-run")])
    assert done.returncode == 0, done.stderr


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    bad = Place(tmp_path / NO_TEXT)
    changes = {
        "--output-dir": {"output_dir": str(tmp_path / NO_TEXT)},
        "--hf-model-id": {"hf_model_id": str(bad.hf)},
        "--dataset-dir": {"dataset_dir": str(bad.data.parent)},
    }
    for flag, change in changes.items():
        done = forked.run(["pretrain_llm.py", *place.flags(**change)])
        assert done.returncode == 2, done.stderr
        assert f"{flag} {tmp_path}/not \\udcff utf8" in done.stderr and "not valid UTF-8; rename it" in done.stderr
        assert "Traceback" not in done.stderr
    for ending in ("bin", "idx"):
        Path(f"{place.data}.{ending}").rename(place.data.parent / f"{NO_TEXT}.{ending}")
    with pytest.raises(Refusal, match="not valid UTF-8; rename it"):
        place.plan()
