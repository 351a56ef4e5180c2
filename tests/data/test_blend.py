"""Weights of a blend: by number, by tokens, by temperature, under limits of epochs; and what the plan tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_workflow.config.plan import Plan
from nemo_workflow.launch import dry_run
from nemo_workflow.run_dir.fingerprint import identity_of
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, write_pair


@pytest.fixture
def three(place: Place) -> Place:
    """Beside data (900 training documents of 300 tokens, 1054 samples) two smaller sources of 100 and 20 documents."""
    write_pair(place.root / "mid" / "m", [300] * 100)
    write_pair(place.root / "small" / "s", [300] * 20)
    return place


def blended(place: Place, lines: str, *flags: str) -> Plan:
    (place.root / "blend").write_text(lines)
    return place.plan(*flags, dataset_dir=None, blend=str(place.root / "blend"))


def weights(plan: Plan) -> dict[str, float]:
    return {Path(source.pair.prefix).name[0]: source.weight for source in plan.sources}


def test_tokens_in_place_of_a_weight(three: Place) -> None:
    plan = blended(three, "tokens data\ntokens mid\ntokens small\n")
    assert weights(plan) == pytest.approx({"d": 1000 / 1120, "m": 100 / 1120, "s": 20 / 1120})


def test_a_temperature_raises_small_sources_and_leaves_pairs_of_one_source_alone(three: Place) -> None:
    write_pair(three.root / "mid" / "n", [300] * 300)
    assert sum(weights(blended(three, "1 data\n4 small\n", "--blend-temperature", "1")).values()) == pytest.approx(1)
    two = weights(blended(three, "1 data\n4 small\n", "--blend-temperature", "2"))
    assert two == pytest.approx({"d": 1 / 3, "s": 2 / 3})
    folders = three.plan("--dataset-dir", str(three.root / "mid"), "--blend-temperature", "1e9")
    assert weights(folders) == pytest.approx({"d": 0.5, "m": 0.125, "n": 0.375})
    assert weights(blended(three, "1e300 data\n1e300 small\n", "--blend-temperature", "0.001")) == {"d": 0.5, "s": 0.5}


def test_no_source_is_drawn_more_often_than_it_may_be(three: Place) -> None:
    plan = blended(
        three, "1 data\n1 mid\n2 max-epochs=1.5 small\n", "--max-steps", "50", "--max-epochs-per-source", "3"
    )
    drawn = {source["prefix"][-1]: source for source in dry_run.describe(plan)["data"]["sources"]}
    assert drawn["s"]["epochs"] == pytest.approx(1.5) and drawn["m"]["epochs"] == pytest.approx(3)
    assert sum(weights(plan).values()) == pytest.approx(1)
    assert sum(source["drawn_tokens"] for source in drawn.values()) == pytest.approx(50 * 16 * 256, abs=3)
    assert Plan.from_json(plan.to_json()) == plan
    assert "drawn: 1.50 epochs" in dry_run.render(plan, "text")
    # the weights follow the length of the run, and a resumed run is asked about them
    longer = blended(
        three, "1 data\n1 mid\n2 max-epochs=1.5 small\n", "--max-steps", "60", "--max-epochs-per-source", "3"
    )
    assert identity_of(longer)["dataset"] != identity_of(plan)["dataset"]


def test_limits_that_nothing_reaches_change_nothing(three: Place) -> None:
    lines = "1 data\n1 mid\n"
    assert weights(blended(three, lines, "--max-epochs-per-source", "50")) == weights(blended(three, lines))


def test_a_source_seen_often_is_told(three: Place) -> None:
    plan = blended(three, "1 data\n1 small\n", "--max-steps", "50")
    (note,) = [note for note in plan.notes if "more than 4 times" in note]
    assert "s (19.0 times)" in note and "--max-epochs-per-source 4" in note and "d_text" not in note
    assert not any("times" in note for note in three.plan().notes)


def test_where_every_source_is_seen_often_none_can_give_way_to_another(three: Place) -> None:
    plan = blended(three, f"1 {three.root}/mid/m\n1 {three.root}/small/s\n", "--max-steps", "200")
    (note,) = [note for note in plan.notes if "more than 4 times" in note]
    assert note.endswith("more text, or a smaller --max-steps, makes better use of the time"), note


@pytest.mark.parametrize(
    ("lines", "flags", "said"),
    [
        ("tokens data\n1 small\n", (), "some lines weigh by `tokens` and some by a number"),
        ("1 max-epochs=0 data\n", (), "line 1: expected .*max-epochs=N PATH"),
        ("1 max-epochs=x data\n", (), "line 1: expected"),
        ("1 max-epochs=2\n", (), "line 1: expected"),
        ("0 data\n", (), "line 1: expected"),
        ("1 data\n", ("--blend-temperature", "2"), "--blend-temperature 2: does nothing with one source"),
        ("1 data\n", ("--blend-temperature", "0"), "--blend-temperature 0.0: must be above 0"),
        ("1 data\n1 small\n", ("--max-epochs-per-source", "1", "--max-steps", "99"), "draws 1,584 samples, and 1,075 are all"),
    ],
)  # fmt: skip
def test_what_makes_no_blend_is_refused(three: Place, lines: str, flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        blended(three, lines, *flags)
