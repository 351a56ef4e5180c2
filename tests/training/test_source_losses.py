"""The training loss of each source: the sums, by hand. A run's are in tests/e2e/run/test_continual.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.run_dir.metric_table import logged
from tests.later import later
from tests.places import Place, write_pair

pytestmark = pytest.mark.slow
torch, source_losses = later("torch"), later("nemo_workflow.training.source_losses")


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(source_losses.dist, "all_reduce", lambda sums: None)  # of one rank there is nothing to add
    return source_losses.SourceLosses(["new", "old", "unseen"])


def test_each_token_counts_for_its_samples_source(sums: Any) -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    sums.on_megatron_microbatch_end(None, {source_losses.ID: torch.tensor([1, 0]), "loss_mask": mask}, losses, None)
    sums.on_megatron_microbatch_end(None, {source_losses.ID: torch.tensor([0, 0]), "loss_mask": mask}, losses, None)
    found = sums.losses(sums.taken())
    assert found == {"new": pytest.approx((15 + 3 + 15) / 8), "old": pytest.approx(1.5), "unseen": None}
    assert sums.losses(sums.taken()) == dict.fromkeys(found)  # begun again
    assert logged({"source_losses": found}) == {"train_loss/new": found["new"], "train_loss/old": found["old"]}


@pytest.mark.parametrize("case", ["no source", "no source of this stage", "no mask", "another shape"])
def test_a_validation_and_a_stage_without_losses_add_nothing(sums: Any, case: str) -> None:
    name, mask, source = source_losses.ID, torch.ones(1, 3), torch.tensor([0])
    batch = {
        "no source": {"loss_mask": mask},
        "no source of this stage": {name: None, "loss_mask": mask},
        "no mask": {name: source, "loss_mask": None},
        "another shape": {name: source, "loss_mask": torch.ones(1, 4)},
    }[case]
    sums.on_megatron_microbatch_end(None, batch, torch.ones(1, 3), None)
    assert set(sums.losses(sums.taken()).values()) == {None}


def test_a_loss_that_is_no_number_is_none(sums: Any) -> None:
    batch = {source_losses.ID: torch.tensor([0]), "loss_mask": torch.ones(1, 2)}
    sums.on_megatron_microbatch_end(None, batch, torch.tensor([[float("inf"), 1.0]]), None)
    assert sums.losses(sums.taken())["new"] is None


def test_the_data_step_hands_on_what_nemos_drops(sums: Any) -> None:
    model = SimpleNamespace(data_step=lambda batches: {"tokens": next(batches)["tokens"]})
    sums.attach(model)
    assert model.training_data_step(iter([{"tokens": 1, source_losses.ID: 7}])) == {"tokens": 1, source_losses.ID: 7}


def test_only_a_blend_has_sources_and_their_names_differ(place: Place) -> None:
    assert source_losses.of(place.plan()) is None
    for folder in ("a", "b", "c"):
        write_pair(place.root / folder / ("wiki" if folder < "c" else "web_text_document"), [300] * 1000)
    more = [word for folder in "abc" for word in ("--dataset-dir", str(place.root / folder))]
    plan = place.plan(*more, dataset_dir=None)
    assert source_losses.names(plan) == ["wiki-1", "wiki-2", "web"]
    assert isinstance(source_losses.of(plan), source_losses.SourceLosses)
