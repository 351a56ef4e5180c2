"""What may change on resume: each rule on its own, without a run."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config.flags import BY_ATTRIBUTE
from nemo_workflow.launch import dry_run
from nemo_workflow.run_dir import fingerprint, metrics
from nemo_workflow.run_dir.checkpoints import write_manifest
from nemo_workflow.run_dir.fingerprint import NEVER, REFUSED, TOLD, Named, compare, digest, tokenizer_digest
from nemo_workflow.training import resume
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, hub_snapshot, leave_checkpoint, write_tokenizer

THEN: dict[str, Any] = {
    "dataset": [{"bin": "9-" + "a" * 32, "idx": "9-" + "b" * 32, "weight": 0.5}] * 2,
    "split": "900,50,50", "seq-length": 64, "seed": 1234, "tokenizer": "c" * 32,
    "optimizer": {"optimizer": "adam", "precision": None}, "model": {"name": "llama_tiny", "num_layers": 4},
    "branch": None, "max-steps": 10, "global-batch-size": 4, "schedule": {"lr": 0.1}, "layout": {"tensor": 1},
}  # fmt: skip


def changed(name: str) -> dict[str, Any]:
    now = copy.deepcopy(THEN)
    if isinstance(now[name], dict):
        key = next(iter(now[name]))
        now[name][key] = "other"
    elif isinstance(now[name], list):
        now[name] = [now[name][0], now[name][1] | {"weight": 0.25}]
    else:
        now[name] = "other"
    return now


def test_nothing_changed() -> None:
    assert compare(copy.deepcopy(THEN), THEN, (), "checkpoint x") == []


def test_every_part_has_one_rule() -> None:
    assert sorted(THEN) == sorted([*NEVER, *REFUSED, *TOLD])


@pytest.mark.parametrize("name", TOLD)
def test_told(name: str) -> None:
    (line,) = compare(changed(name), THEN, (), "checkpoint x")
    assert "changed since checkpoint x" in line and "-> other" in line


@pytest.mark.parametrize("name", REFUSED)
def test_refused_unless_named(name: str) -> None:
    with pytest.raises(Refusal, match=f"--allow-change {name}"):
        compare(changed(name), THEN, tuple(other for other in REFUSED if other != name), "checkpoint x")
    assert len(compare(changed(name), THEN, (name,), "checkpoint x")) == 1


OTHER = '{"model": {"vocab": {"a": 0}}}'


@pytest.mark.parametrize("name", NEVER)
def test_never(name: str) -> None:
    with pytest.raises(Refusal, match="another --experiment"):
        compare(changed(name), THEN, (*REFUSED, *NEVER), "checkpoint x")


def test_every_problem_at_once() -> None:
    with pytest.raises(Refusal) as refused:
        compare(changed("seed") | {"split": "1,1,1"}, THEN, (), "checkpoint x")
    assert len(refused.value.problems) == 2


def test_the_flag_offers_what_can_be_refused() -> None:
    assert set(BY_ATTRIBUTE["allow_change"].choices) == set(REFUSED)


@pytest.mark.parametrize("at", [0, 500, 999])
def test_a_digest_sees_every_byte_of_a_small_file(tmp_path: Path, at: int) -> None:
    file = tmp_path / "x.bin"
    content = bytearray(1000)
    file.write_bytes(content)
    before = digest(file)
    content[at] = 1
    file.write_bytes(content)
    assert digest(file) != before


def test_a_digest_of_a_large_file_reads_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE", 1000)
    monkeypatch.setattr(fingerprint, "PIECE", 100)
    monkeypatch.setattr(fingerprint, "PIECES", 4)
    file = tmp_path / "x.bin"
    digests = []
    for at in (None, 0, 9_999, 3_350):
        content = bytearray(10_000)
        if at is not None:
            content[at] = 1
        file.write_bytes(content)
        digests.append(digest(file))
    assert len(set(digests)) == 4


def test_a_tokenizer_is_what_its_files_say_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("{}")
    (tmp_path / "b" / "README.md").write_text("of no effect")
    assert tokenizer_digest(str(tmp_path / "a")) == tokenizer_digest(str(tmp_path / "b"))
    (tmp_path / "b" / "tokenizer.json").write_text("{ }")
    assert tokenizer_digest(str(tmp_path / "a")) == tokenizer_digest(str(tmp_path / "b"))
    (tmp_path / "b" / "tokenizer.json").write_text(OTHER)
    assert tokenizer_digest(str(tmp_path / "a")) != tokenizer_digest(str(tmp_path / "b"))
    assert tokenizer_digest("organisation/name") == "organisation/name"


def test_a_tokenizer_of_the_hub_is_its_files_once_they_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's files may change under the same name; a run that an older version wrote has the name alone."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    snapshot = hub_snapshot(folder, tmp_path / "hub" / "models--organisation--name")
    assert tokenizer_digest("organisation/name") == tokenizer_digest(str(folder)) != "organisation/name"
    assert fingerprint.first_tokenizer_digest("organisation/name") == "organisation/name"
    (snapshot / "tokenizer.json").resolve().write_text(OTHER)
    assert tokenizer_digest("organisation/name") != tokenizer_digest(str(folder))


def test_a_checkpoint_from_before_optimizer_precision_is_of_the_recipes_own(place: Place) -> None:
    plan = place.plan()
    now = fingerprint.identity_of(plan)
    then = copy.deepcopy(now)
    assert then["optimizer"].pop("optimizer_precision") == "fp32"
    assert compare(now, fingerprint.in_todays_words(then, now, plan), (), "checkpoint x") == []
    then["optimizer"]["optimizer_precision"] = "bf16"
    with pytest.raises(Refusal, match=r"optimizer_precision.*bf16 -> fp32.*--optimizer-precision back"):
        compare(now, fingerprint.in_todays_words(then, now, plan), (), "checkpoint x")


def test_a_checkpoint_that_knows_the_bytes_of_its_tokenizer_is_this_ones(place: Place) -> None:
    """As versions wrote that didn't read what the files say; an end of the document that changes is another tokenizer."""
    plan = place.plan()
    now = fingerprint.identity_of(plan)
    for digest_then in (fingerprint.first_tokenizer_digest, fingerprint.second_tokenizer_digest):
        then = copy.deepcopy(now) | {"tokenizer": digest_then(str(place.hf))}
        assert then["tokenizer"] != now["tokenizer"]
        assert compare(now, fingerprint.in_todays_words(then, now, plan), (), "checkpoint x") == []
    write_tokenizer(place.hf, eos="w7")
    later = fingerprint.identity_of(plan)
    with pytest.raises(Refusal, match="the tokenizer of --hf-model-id changed"):
        compare(later, fingerprint.in_todays_words(now, later, plan), (), "checkpoint x")


@pytest.mark.parametrize("own", [True, False])
def test_an_older_checkpoint_whose_tokenizer_was_saved_again_since(place: Place, own: bool) -> None:
    """Its identity knows bytes that are gone; the copy in its context/ tells whether the tokenizer is the same."""
    plan = place.plan()
    folder = leave_checkpoint(plan, 4)
    if own:
        shutil.copytree(place.hf, folder / "context" / "tokenizer")
    identity = fingerprint.identity_of(plan) | {"tokenizer": fingerprint.second_tokenizer_digest(str(place.hf))}
    write_manifest(folder, step=4, consumed_samples=64, identity=json.loads(json.dumps(identity)))
    whole = json.loads((place.hf / "tokenizer.json").read_text())
    (place.hf / "tokenizer.json").write_text(json.dumps(whole, indent=3))
    if own:
        assert resume.check_changes(place.plan())[1] == []
        write_tokenizer(place.hf, 4097)
    with pytest.raises(Refusal, match="the tokenizer of --hf-model-id changed"):
        resume.check_changes(place.plan())


def test_checkpoints_that_are_gone_are_told_of_a_run_that_begins_again(place: Place) -> None:
    plan = place.plan()
    folder = leave_checkpoint(plan, 4)
    assert resume.check_changes(plan)[1] == []
    shutil.rmtree(folder.parent)
    assert resume.check_changes(plan)[1] == []  # it was killed before its first save
    metrics.event(plan.folder / metrics.FILE, "checkpoint", step=4, bytes=1, seconds=1.0)
    metrics.event(plan.folder / metrics.FILE, "step", step=5)
    said = "no checkpoint is left of the 5 steps that the run has made: it starts from the beginning"
    assert resume.check_changes(plan)[1] == [said]
    assert f"random weights; {said}" in "".join(dry_run.parts(plan, "json"))


def test_unlike_stages_are_told_and_no_older_checkpoint_has_them(place: Place) -> None:
    plan = place.plan("-G", "2", "-PP", "2")
    now = fingerprint.identity_of(plan)
    old = copy.deepcopy(now)
    for end in ("first stage", "last stage"):
        assert old["layout"].pop(end) == "unset"
    assert compare(now, fingerprint.in_todays_words(copy.deepcopy(old), now, plan), (), "checkpoint x") == []
    uneven = place.plan("-G", "2", "-PP", "2", "--last-stage-layers", "1")
    now = fingerprint.identity_of(uneven)
    told = compare(now, fingerprint.in_todays_words(old, now, uneven), (), "checkpoint x")
    assert told == ["changed since checkpoint x: the parallel layout (last stage unset -> 1 layer)"]


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (0.0001, 1.0000000000000002e-06, "(min_lr 0.0001 -> 1e-06)"),
        (1e-06, 1.0000000000000002e-06, "(min_lr 1e-06 -> 1.0000000000000002e-06)"),
        (0, 3.0000000000000001e-05, "(min_lr 0 -> 3e-05)"),
    ],
)
def test_a_rate_is_told_in_few_digits(then: float, now: float, said: str) -> None:
    before, after = copy.deepcopy(THEN), copy.deepcopy(THEN)
    before["schedule"], after["schedule"] = {"min_lr": then}, {"min_lr": now}
    [line] = compare(after, before, ("schedule",), "checkpoint x")
    assert line.endswith(said)


def test_what_was_named_is_told_and_no_digest() -> None:
    """Other data under the same --experiment, as a quick start's second try has it."""
    then, now = Named(("one/a", "one/b"), "tok"), Named(("two/a",), "tok2")
    changes = changed("tokenizer") | {"dataset": THEN["dataset"][:1]}
    with pytest.raises(Refusal) as refused:
        compare(changes, THEN, (), "checkpoint x", (now, then))
    text = "\n".join(refused.value.problems)
    assert "(then one/a and one/b, now two/a)" in text and "(then tok, now tok2)" in text
    assert not re.search("[0-9a-f]{32}", text)


def test_a_model_that_is_left_out_is_told() -> None:
    began, without = Named((), "tok", "imported"), Named((), "tok")
    for names, said in (
        ((without, began), "the run began with --nemo-model imported: give that again"),
        ((began, began), "weights fit no other model"),
        ((without, without), "weights fit no other model"),
        ((None, began), "weights fit no other model"),
    ):
        with pytest.raises(Refusal, match=said):
            compare(changed("model"), THEN, (), "checkpoint x", names)


def test_changed_content_of_the_same_name_is_told_by_that_name() -> None:
    named = Named(("one/a", "one/b"), "tok")
    other = copy.deepcopy(THEN)
    other["dataset"] = [THEN["dataset"][0], THEN["dataset"][1] | {"bin": "9-" + "f" * 32}]
    for names, said in (
        ((named, named), "(one/b: bin other content)"),
        ((None, None), "(source 2: bin other content)"),
    ):
        with pytest.raises(Refusal) as refused:
            compare(other, THEN, (), "checkpoint x", names)
        assert said in str(refused.value)


def test_a_plan_tells_its_names(shared: Place) -> None:
    found = Named.of(json.loads(shared.plan().to_json()))
    assert found == Named((str(shared.data),), str(shared.hf))
    assert Named.of({}) is None and Named.of({"sources": [{}]}) is None
