"""The training loss of each source: the sums, by hand. A run's are in tests/e2e/run/test_continual.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_workflow.run_dir.metric_table import logged
from nemo_workflow.training import source_losses
from nemo_workflow.training.source_losses import ID, SourceLosses, names
from tests.places import Place, write_pair


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> SourceLosses:
    monkeypatch.setattr(source_losses.dist, "all_reduce", lambda sums: None)  # of one rank there is nothing to add
    return SourceLosses(["new", "old", "unseen"])


def test_each_token_counts_for_its_samples_source(sums: SourceLosses) -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    sums.on_megatron_microbatch_end(None, {ID: torch.tensor([1, 0]), "loss_mask": mask}, losses, None)
    sums.on_megatron_microbatch_end(None, {ID: torch.tensor([0, 0]), "loss_mask": mask}, losses, None)
    found = sums.losses(sums.taken())
    assert found == {"new": pytest.approx((15 + 3 + 15) / 8), "old": pytest.approx(1.5), "unseen": None}
    assert sums.losses(sums.taken()) == dict.fromkeys(found)  # begun again
    assert logged({"source_losses": found}) == {"train_loss/new": found["new"], "train_loss/old": found["old"]}


@pytest.mark.parametrize(
    "batch",
    [{"loss_mask": torch.ones(1, 3)}, {ID: None, "loss_mask": torch.ones(1, 3)}, {ID: torch.tensor([0]), "loss_mask": None},
     {ID: torch.tensor([0]), "loss_mask": torch.ones(1, 4)}],
)  # fmt: skip
def test_a_validation_and_a_stage_without_losses_add_nothing(sums: SourceLosses, batch: dict[str, Any]) -> None:
    sums.on_megatron_microbatch_end(None, batch, torch.ones(1, 3), None)
    assert set(sums.losses(sums.taken()).values()) == {None}


def test_a_loss_that_is_no_number_is_none(sums: SourceLosses) -> None:
    batch = {ID: torch.tensor([0]), "loss_mask": torch.ones(1, 2)}
    sums.on_megatron_microbatch_end(None, batch, torch.tensor([[float("inf"), 1.0]]), None)
    assert sums.losses(sums.taken())["new"] is None


def test_the_data_step_hands_on_what_nemos_drops(sums: SourceLosses) -> None:
    model = SimpleNamespace(data_step=lambda batches: {"tokens": next(batches)["tokens"]})
    sums.attach(model)
    assert model.training_data_step(iter([{"tokens": 1, ID: 7}])) == {"tokens": 1, ID: 7}


def test_only_a_blend_has_sources_and_their_names_differ(place: Place) -> None:
    assert source_losses.of(place.plan()) is None
    for folder in ("a", "b", "c"):
        write_pair(place.root / folder / ("wiki" if folder < "c" else "web_text_document"), [300] * 1000)
    more = [word for folder in "abc" for word in ("--dataset-dir", str(place.root / folder))]
    plan = place.plan(*more, dataset_dir=None)
    assert names(plan) == ["wiki-1", "wiki-2", "web"]
    assert isinstance(source_losses.of(plan), SourceLosses)
