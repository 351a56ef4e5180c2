"""What a plan says of a layout that is allowed and wasteful."""

from __future__ import annotations

import pytest

from tests.places import Place

EIGHT_B = {"model_name": "llama31_8b", "accelerator": "gpu", "num_gpus": "4", "micro_batch_size": "1"}


def notes(place: Place, *more: str, **change: str | None) -> str:
    return "\n".join(place.plan("--dry-run", *more, **EIGHT_B | change).notes)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-CP", "4"], "-CP 4 leaves 2,048 tokens per GPU and micro batch"),
        (["-CP", "2"], None),
        (["-CP", "2", "--seq-length", "4096"], "-CP 2 leaves 2,048 tokens"),
        (["-CP", "4", "-mbs", "2"], None),
        (["--seq-length", "1024"], None),
    ],
)
def test_short_pieces_under_context_parallelism_are_said(large: Place, more: list[str], said: str | None) -> None:
    change = {"micro_batch_size": None} if "-mbs" in more else {}
    found = notes(large, *more, **change)
    assert (said in found) if said else ("tokens per GPU and micro batch" not in found)


def test_an_automatic_micro_batch_is_what_is_counted(large: Place) -> None:
    tiny = {"model_name": "llama_tiny", "micro_batch_size": "auto", "global_batch_size": "64"}
    assert "tokens per GPU and micro batch" in notes(large, "-CP", "2", **tiny, num_gpus="2", gpu_memory="1.6")
    plan = large.plan("--dry-run", "-CP", "2", **EIGHT_B | tiny | {"num_gpus": "2", "seq_length": "2048"})
    assert plan.settings.micro_batch_size * 2048 // 2 >= 4096
    assert not any("tokens per GPU and micro batch" in note for note in plan.notes)


def test_tensor_parallelism_without_sequence_parallelism_says_what_that_costs(large: Place) -> None:
    assert "-TP 4 without -SP" in notes(large, "-TP", "4")
    assert "-TP 4 without -SP" not in notes(large, "-TP", "4", "-SP")
    assert "without -SP" not in notes(large)
    assert "GiB per GPU" in notes(large, "-TP", "4")


def test_it_is_not_said_of_a_length_that_sequence_parallelism_can_not_split(large: Place) -> None:
    assert "without -SP" not in notes(large, "-TP", "4", "--seq-length", "1022")


def test_an_unset_batch_is_set_against_the_recipes_own(shared: Place) -> None:
    """The guide's 2,048 was made for 8 billion parameters on many GPUs."""
    said = "\n".join(shared.plan("--dry-run", "--seq-length", "32", global_batch_size=None).notes)
    assert "--global-batch-size is unset, so it is 2,048, 2,048 micro batches per step" in said
    assert "llama_tiny's own is 16 (-gbs 16)" in said and "on this machine's CPU" in said
    assert "is unset" not in "\n".join(shared.plan("--dry-run", "--seq-length", "32", global_batch_size="2048").notes)


def test_more_processes_than_cores_are_said(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert "-G 2 is faster" in "\n".join(shared.plan("--dry-run", "-G", "8").notes)
    assert "take turns" not in "\n".join(shared.plan("--dry-run", "-G", "2").notes)
