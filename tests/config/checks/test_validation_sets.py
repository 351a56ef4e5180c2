"""--validation-dir: names, the plan's lines, and what is refused. Its losses: tests/e2e/run/test_decay.py."""

from __future__ import annotations

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.checks.slurm import needed_folders
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.launch import dry_run
from nemo_workflow.run_dir.config_yaml import config_text
from nemo_workflow.run_dir.fingerprint import identity_of
from nemo_workflow.run_dir.metric_table import logged
from nemo_workflow.run_dir.metrics import plain
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, write_pair


@pytest.fixture
def held_out(place: Place) -> Place:
    write_pair(place.root / "english" / "preprocessed" / "e_text_document", [300] * 10)
    write_pair(place.root / "chinese" / "c_text_document", [300] * 900)
    return place


def sets(place: Place, *words: str) -> list[str]:
    return [part for word in words for part in ("--validation-dir", word.replace("@", f"{place.root}/"))]


def test_the_plan_names_each_set_and_its_batches(held_out: Place) -> None:
    plan = held_out.plan(*sets(held_out, "@english", "zh=@chinese/c_text_document"), max_steps="50")
    assert [one.name for one in plan.validation_sets] == ["english", "zh"]
    # 10 documents of 300 tokens are 11 samples of 256, less than a batch of 16; --split's part has three batches
    assert [plan.batches_of(one) for one in plan.validation_sets] == [1, 3]
    text = dry_run.render(plan, "text")
    assert "validation set english: 1 batch of its 11 samples, also before the first step" in text
    assert "validation set zh: 3 batches of its 1,054 samples" in text
    assert Plan.from_json(plan.to_json()) == plan
    assert identity_of(plan) == identity_of(held_out.plan(max_steps="50"))  # a resumed run may change them
    (held_out.root / "again.yaml").write_text(config_text(plan))
    again = make_plan(command_line.parse(["--config", str(held_out.root / "again.yaml")]))
    assert again.validation_sets == plan.validation_sets
    assert str(held_out.root / "english") in [folder for folder, _ in needed_folders(plan.settings, plan.sources)]


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["@nowhere"], [], "nowhere"),
        (["a b=@english"], [], "'a b' is not a valid name"),
        (["x=@english", "x=@chinese"], [], "a second set called x"),
        (["@data"], [], "d_text_document is trained on too"),
        (["@english"], ["--split", "9,0,1"], "leaves nothing for validation"),
        (["@english"], ["--seq-length", "4096", "-gbs", "1"], "english: no sample of 4,096 tokens"),
    ],
)
def test_what_is_no_set_is_refused(held_out: Place, words: list[str], more: list[str], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        held_out.plan(*sets(held_out, *words), *more)


def test_ids_that_the_tokenizer_lacks_are_found_in_a_set_too(held_out: Place) -> None:
    write_pair(held_out.root / "other" / "o", [300] * 10, dtype="int32", largest=70_000)
    with pytest.raises(Refusal, match=r"o\.bin: holds token id 70000"):
        held_out.plan(*sets(held_out, "@other"))


def test_their_losses_go_to_the_log_and_the_loggers() -> None:
    event = {"event": "validation", "step": 4, "val_loss": 2.0, "set_losses": {"zh": 3.5, "en": None}}
    assert plain(event, 10, 1) == "step 4: validation loss 2.0000, zh 3.5000"
    assert logged(event) == {"val_loss": 2.0, "val_loss/zh": 3.5}
