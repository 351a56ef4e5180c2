"""Every flag that a CPU refuses, on a card: it trains, saves, resumes, and does what it says."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gpu.cases import FLAGS, length

pytestmark = pytest.mark.gpu
Results = dict[str, dict[str, Any]]


def losses(results: Results, name: str) -> dict[int, float]:
    assert "error" not in results[name], results[name]["error"]
    return {int(step): loss for step, loss in results[name]["losses"].items()}


@pytest.mark.parametrize("name", ["plain", *FLAGS])
def test_it_trains(results: Results, name: str) -> None:
    found, (steps, _) = losses(results, name), length(name)
    assert list(found) == list(range(1, steps + 1))
    assert found[steps] < found[1] - 0.5


@pytest.mark.parametrize("name", ["plain", *FLAGS])
def test_it_goes_on_from_its_checkpoint(results: Results, name: str) -> None:
    whole, again = losses(results, name), losses(results, f"{name}_again")
    steps, saved = length(name)
    assert list(again) == list(range(saved + 1, steps + 1))
    # fp8's scaling history is part of the checkpoint; atomic adds in the backward pass leave the last bits open
    for step, loss in again.items():
        assert loss == pytest.approx(whole[step], abs=0.02)


@pytest.mark.parametrize("name", [name for name in FLAGS if "fp8" not in name and name != "fp16"])
def test_what_saves_memory_changes_no_loss(results: Results, name: str) -> None:
    plain, saving = losses(results, "plain"), losses(results, name)
    for step, loss in saving.items():
        assert loss == pytest.approx(plain[step], abs=0.03)


@pytest.mark.parametrize("name", [name for name in FLAGS if "offload" in name or "full" in name])
def test_it_saves_memory(results: Results, name: str) -> None:
    assert results[name]["alloc"] < results["plain"]["alloc"]


def test_our_settings_change_no_loss(results: Results) -> None:
    stock, ours = losses(results, "stock"), losses(results, "plain")
    for step, loss in ours.items():
        assert loss == pytest.approx(stock[step], abs=0.02)


def test_fp8_is_on(results: Results) -> None:
    plain, fp8 = losses(results, "plain"), losses(results, "fp8")
    assert fp8 != plain  # without Transformer Engine fp8 is ignored and every loss is equal
    for step, loss in fp8.items():
        assert loss == pytest.approx(plain[step], rel=0.02)


def test_casts_inside_swiglu_change_no_bit(results: Results, output: Path) -> None:
    assert losses(results, "fp8_deterministic") == losses(results, "fp8_deterministic_plain_casts")
    texts = {path.name: path.read_text(errors="replace") for path in (output / "fp8_deterministic").rglob("*.log")}
    texts.pop("git-info.log", None)  # NeMo's, with a checkout's whole diff: it may hold these very words
    assert "rank0.log" in texts
    assert not [name for name, text in texts.items() if "left out" in text]


def test_the_run_measures_itself_right(results: Results) -> None:
    """The metrics file against a clock read from outside, with the GPU idle at both readings."""
    clock = results["clock"]
    tokens_a_step = clock["tok_s"] * statistics.median(clock["step_seconds"][4:])
    own = tokens_a_step / statistics.mean(clock["step_seconds"][4:])  # a step of a tenth of a second varies
    assert own == pytest.approx(clock["outside_tok_s"], rel=0.02)


def test_kernels(results: Results) -> None:
    errors = {name: value for name, value in results["kernels"]["kernels"].items() if name.endswith("error")}
    assert len(errors) >= 9
    for name, value in errors.items():
        assert value < 5e-3, name  # not a number where a part failed
