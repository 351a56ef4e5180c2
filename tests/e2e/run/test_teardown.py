"""A training's end moves neither model nor optimizer: Lightning's and NeMo's own strategy, torn down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def strategy() -> Any:
    from nemo_workflow.backends import cpu

    cpu.install()
    import torch
    from nemo import lightning as nl

    class Module(torch.nn.Module):  # type: ignore[misc]
        """A model that says when it is moved, as the one that Lightning holds would."""

        _trainer = None

        def __init__(self) -> None:
            super().__init__()
            self.moved: list[Any] = []

        def cpu(self) -> Any:
            self.moved.append("cpu")
            return self

    made = nl.MegatronStrategy()
    made._lightning_module = Module()
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    made.optimizers = [optimizer]
    made.accelerator = SimpleNamespace(teardown=lambda: made._lightning_module)
    made.cluster_environment = SimpleNamespace(teardown=lambda: None)
    return made


def moves(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a teardown moves."""
    from lightning.pytorch.strategies import strategy as lightning_strategy

    moved: list[Any] = []
    monkeypatch.setattr(
        lightning_strategy, "_optimizers_to_device", lambda optimizers, device: moved.extend(optimizers)
    )
    module, optimizers = strategy.lightning_module, strategy.optimizers
    strategy.teardown()
    assert strategy.lightning_module is module
    assert strategy.optimizers == optimizers
    return [*moved, *module.moved]


def test_a_run_that_is_asked_to_stop_after_its_last_step_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was called stopped at its last step for ever."""
    from nemo_workflow.training.callbacks import Stopper

    stopper, stopped = Stopper(None, Path()), []  # type: ignore[arg-type]
    monkeypatch.setattr(stopper, "_stop_if_asked", stopped.append)
    for step in (2, 3):
        stopper.on_train_batch_end(SimpleNamespace(global_step=step, max_steps=3), None)  # type: ignore[arg-type]
    assert [trainer.global_step for trainer in stopped] == [2]


def test_nothing_is_moved(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_workflow.training import teardown

    assert len(moves(strategy, monkeypatch)) == 2  # Lightning's way, so that this test would tell
    strategy.lightning_module.moved.clear()
    teardown.without_copies(strategy)
    assert moves(strategy, monkeypatch) == []


def test_an_error_in_the_teardown_is_still_an_error(strategy: Any) -> None:
    from nemo_workflow.training import teardown

    def fail() -> None:
        raise RuntimeError("the cluster is gone")

    strategy.cluster_environment = SimpleNamespace(teardown=fail)
    teardown.without_copies(strategy)
    module = strategy.lightning_module
    with pytest.raises(RuntimeError, match="the cluster is gone"):
        strategy.teardown()
    assert strategy.lightning_module is module
