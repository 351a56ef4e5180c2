"""Steps, warm-up, rates and intervals from the flags and the recipe's own values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_workflow.config import schedule
from nemo_workflow.config.schedule import Branch, Schedule, make_schedule, rate_at, rate_words
from nemo_workflow.config.settings import Settings
from nemo_workflow.models import catalog
from nemo_workflow.models.catalog import Recipe

STOCK = {
    "optim.config.lr": 1e-3,
    "optim.lr_scheduler.min_lr": 2e-4,
    "optim.lr_scheduler.warmup_steps": 20,
    "optim.lr_scheduler.constant_steps": 0,
    "trainer.val_check_interval": 50,
    "trainer.limit_val_batches": 8,
}
BRANCH = Branch(step=60, rate=5e-4, lr=1e-3, warmup_steps=7, kind=None, digest="d")


def recipe(**change: Any) -> Recipe:
    return replace(catalog.find("llama_tiny"), fields=STOCK | {name.replace("__", "."): value for name, value in change.items()})  # fmt: skip


def planned(
    stock: dict[str, Any] | None = None, branch: Branch | None = None, train: int = 1600, val: int = 80, **flags: Any
) -> Schedule:
    return make_schedule(Settings(**({"global_batch_size": 4} | flags)), recipe(**(stock or {})), train, val, branch)


WARMUP, RATIO = "optim__lr_scheduler__warmup_steps", "optim__lr_scheduler__warmup_ratio"
CONSTANT, MIN_LR = "optim__lr_scheduler__constant_steps", "optim__lr_scheduler__min_lr"


WHOLE = (
    "max_steps", "warmup_steps", "constant_steps", "val_check_interval", "save_every", "limit_val_batches", "decay_steps",
    "first_step",
)  # fmt: skip


@pytest.mark.parametrize(
    ("made", "found"),
    [
        # an epoch of 1600 samples in batches of 4
        ({}, {"max_steps": 400, "warmup_steps": 20, "constant_steps": 0, "lr": 1e-3, "min_lr": 2e-4, "val_check_interval": 40,
              "save_every": 40, "limit_val_batches": 8, "kind": None, "decay_steps": 0, "decay_style": "", "first_step": 0}),
        ({"train": 1603}, {"max_steps": 400}),
        ({"max_steps": 105}, {"warmup_steps": 10, "val_check_interval": 10}),
        ({"train": 3}, {"max_steps": 1, "warmup_steps": 0, "val_check_interval": 1}),  # less than a batch is a step
        ({"max_steps": 1000}, {"max_steps": 1000, "val_check_interval": 50}),  # the recipe's own, not a tenth
        ({"max_steps": 100}, {"warmup_steps": 10, "val_check_interval": 10}),  # at most a tenth of the run
        ({"max_steps": 0}, {"max_steps": 0, "warmup_steps": 0}),
        ({"global_batch_size": 0}, {"max_steps": 1600}),  # refused elsewhere; no division by 0 here
        # validation: no sample twice, at least one batch, none without data
        ({"val": 14}, {"limit_val_batches": 3}),
        ({"val": 12}, {"limit_val_batches": 3}),
        ({"val": 3}, {"limit_val_batches": 1}),
        ({"val": 0}, {"limit_val_batches": 0}),
        ({"val_check_interval": 7}, {"val_check_interval": 7, "save_every": 7}),
        ({"val_check_interval": 7, "save_every": 21}, {"val_check_interval": 7, "save_every": 21}),
        # warm-up
        ({"warmup_steps": 3}, {"warmup_steps": 3}),
        ({"warmup_steps": 0}, {"warmup_steps": 0}),
        ({"stock": {WARMUP: None, RATIO: 0.01}}, {"warmup_steps": 4}),
        ({"stock": {WARMUP: None, RATIO: 0.5}}, {"warmup_steps": 40}),
        ({"stock": {WARMUP: None}}, {"warmup_steps": 0}),
        # the end at the lowest rate; one step of decay is left
        ({"constant_steps": 9}, {"constant_steps": 9}),
        ({"constant_steps": 0, "stock": {CONSTANT: 30}}, {"constant_steps": 0}),
        ({"stock": {CONSTANT: 30}}, {"constant_steps": 30}),
        ({"stock": {CONSTANT: 3000}}, {"constant_steps": 379}),
        ({"stock": {CONSTANT: 3000}, "max_steps": 1}, {"constant_steps": 0}),
        ({"stock": {CONSTANT: 3000}, "max_steps": 0}, {"constant_steps": 0}),
        ({"stock": {CONSTANT: None}}, {"constant_steps": 0}),
        ({"stock": {CONSTANT: 30}, "lr_schedule": "cosine"}, {"constant_steps": 30, "kind": "cosine"}),
        *(({"stock": {CONSTANT: 30}, "lr_schedule": kind}, {"constant_steps": 0, "kind": kind}) for kind in ("linear", "constant", "wsd")),
        # rates: the recipe's lowest, at most a tenth of a rate that was given
        ({"lr": 5e-3}, {"lr": 5e-3, "min_lr": 2e-4}),
        ({"lr": 1e-4}, {"lr": 1e-4, "min_lr": 1e-5}),
        ({"min_lr": 3e-5}, {"lr": 1e-3, "min_lr": 3e-5}),
        ({"min_lr": 0.0, "lr": 1e-4}, {"min_lr": 0.0}),
        ({"lr": 0.0}, {"lr": 0.0, "min_lr": 0.0}),
        ({"lr_schedule": "constant"}, {"lr": 1e-3, "min_lr": 1e-3}),
        # warm-up, stable, decay
        ({"lr_schedule": "wsd"}, {"decay_steps": 40, "decay_style": "minus_sqrt", "min_lr": 2e-4}),
        ({"lr_schedule": "wsd", "max_steps": 95}, {"decay_steps": 9}),
        ({"branch": replace(BRANCH, step=65)}, {"max_steps": 71, "decay_steps": 6}),
        ({"branch": BRANCH, "decay_steps": 35}, {"val_check_interval": 3}),
        ({"lr_schedule": "wsd", "max_steps": 5}, {"decay_steps": 1}),
        ({"lr_schedule": "wsd", "decay_steps": 11, "decay_style": "linear"}, {"decay_steps": 11, "decay_style": "linear"}),
        ({"lr_schedule": "linear", "decay_steps": 11, "decay_style": "linear"}, {"decay_steps": 0, "decay_style": ""}),
        # a branch: the checkpoint's step, rate and warm-up; --decay-steps, else --max-steps, else a tenth of the steps made
        ({"branch": BRANCH}, {"max_steps": 66, "decay_steps": 6, "first_step": 60, "lr": 5e-4, "warmup_steps": 7, "kind": "wsd",
                              "decay_style": "minus_sqrt", "val_check_interval": 1, "min_lr": 2e-4}),
        ({"branch": BRANCH, "decay_steps": 30}, {"max_steps": 90, "decay_steps": 30, "val_check_interval": 3}),
        ({"branch": BRANCH, "max_steps": 100}, {"max_steps": 100, "decay_steps": 40, "val_check_interval": 4}),
        ({"branch": BRANCH, "max_steps": 100, "decay_steps": 30}, {"max_steps": 90, "decay_steps": 30}),
        ({"branch": replace(BRANCH, step=5)}, {"max_steps": 6, "decay_steps": 1}),
        ({"branch": BRANCH, "warmup_steps": 3}, {"warmup_steps": 7}),
        ({"branch": BRANCH, "lr_schedule": "constant"}, {"kind": "wsd", "min_lr": 2e-4}),
    ],
)  # fmt: skip
def test_a_schedule_follows_flags_and_recipe(made: dict[str, Any], found: dict[str, Any]) -> None:
    seen = vars(planned(**made))
    assert {name: seen[name] for name in found} == pytest.approx(found)
    assert all(type(seen[name]) is int for name in WHOLE)


def test_the_steps_of_a_branch_are_its_own() -> None:
    assert planned(branch=BRANCH).steps == 6 and planned().steps == 400
    assert BRANCH.as_identity() == {"step": 60, "rate": 5e-4, "lr": 1e-3, "warmup_steps": 7, "kind": None, "digest": "d"}  # fmt: skip


@pytest.mark.parametrize(
    ("step", "batches", "validates"), [(0, 1, False), (5, 1, False), (10, 1, True), (20, 2, True), (10, 0, False)]
)
def test_a_validation_follows_each_nth_step(step: int, batches: int, validates: bool) -> None:
    assert Schedule(100, 0, 0, 1.0, 0.1, 10, 10, batches).validates(step) is validates
    assert Schedule(100, 0, 0, 1.0, 0.1, 1, 1, 1).validates(1)


def rates(kind: str | None, constant: int = 0, warmup: int = 10, **more: Any) -> Schedule:
    return Schedule(100, warmup, constant, 1.0, 0.2, 10, 10, 1, kind=kind, **more)


@pytest.mark.parametrize(
    ("made", "at"),
    [
        (rates(None), {0: 1 / 11, 10: 1.0, 55: 0.6, 100: 0.2, 101: 0.2, 1000: 0.2}),
        (rates(None, constant=10), {0: 0.0, 5: 0.5, 10: 1.0, 50: 0.6, 90: 0.2, 91: 0.2, 99: 0.2}),
        (rates("cosine", warmup=0), {0: 1.0, 25: 0.2 + 0.8 * 0.8535533906, 50: 0.6, 100: 0.2}),
        (rates("linear"), {4: 5 / 11, 10: 1.0, 19: 0.92, 55: 0.6, 100: 0.2, 120: 0.2}),
        (rates("constant"), {4: 5 / 11, 11: 1.0, 99: 1.0}),
        (rates("wsd", decay_steps=20, decay_style="linear"), {11: 1.0, 80: 1.0, 85: 0.8, 100: 0.2, 101: 0.2}),
        (rates("wsd", decay_steps=0, decay_style="linear"), {50: 1.0, 100: 1.0, 101: 0.2}),
        (rates("wsd", decay_steps=20, decay_style="minus_sqrt"), {85: 0.6, 100: 0.2}),
        (rates("wsd", decay_steps=20, decay_style="exponential"), {90: 0.2 + 0.8 * 0.4142135624, 100: 0.2}),
        (rates("wsd", decay_steps=20, decay_style="cosine"), {90: 0.6, 95: 0.2 + 0.8 * 0.1464466094, 100: 0.2}),
    ],
)  # fmt: skip
def test_the_rate_of_a_step(made: Schedule, at: dict[int, float]) -> None:
    assert {step: rate_at(made, step) for step in at} == pytest.approx(at)


def test_a_run_of_warm_up_alone_has_a_rate_at_its_end() -> None:
    assert rate_at(Schedule(10, 10, 0, 1.0, 0.1, 10, 10, 1), 10) == 1.0
    assert rate_at(Schedule(10, 9, 1, 1.0, 0.1, 10, 10, 1), 10) == 0.1
    assert rate_at(Schedule(10, 8, 1, 1.0, 0.1, 10, 10, 1), 9) == pytest.approx(0.1)


@pytest.mark.parametrize("style", ["linear", "minus_sqrt", "exponential", "cosine"])
def test_before_the_decay_all_is_left_and_after_it_nothing(style: str) -> None:
    assert [schedule.left_of_decay(style, done) for done in (-1.0, 0.0)] == [1.0, 1.0]
    assert schedule.left_of_decay(style, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "0.001 after 10 steps of warm-up, down to 0.0001"),
        ({"warmup_steps": 1}, "0.001 after 1 step of warm-up, down to 0.0001"),
        ({"kind": "cosine"}, "0.001 after 10 steps of warm-up, down to 0.0001 (cosine)"),
        ({"constant_steps": 1}, "0.001 after 10 steps of warm-up, down to 0.0001, constant for 1 step"),
        ({"kind": "constant"}, "0.001 after 10 steps of warm-up, then constant"),
        ({"kind": "wsd"}, "0.001 after 10 steps of warm-up, then constant, down to 0.0001 over the last 20 steps (linear)"),
        ({"kind": "wsd", "first_step": 50}, "0.001 as after step 50, down to 0.0001 over the last 20 steps (linear)"),
        ({"lr": 0.00123456, "min_lr": 1.23456e-7}, "0.00123 after 10 steps of warm-up, down to 1.23e-07"),
    ],
)  # fmt: skip
def test_the_rate_in_words(change: dict[str, Any], words: str) -> None:
    plain = {"kind": None, "warmup_steps": 10, "lr": 1e-3, "min_lr": 1e-4, "constant_steps": 0, "decay_steps": 20, "decay_style": "linear"}  # fmt: skip
    assert rate_words(plain | change) == words
    old = {name: value for name, value in (plain | change).items() if value is not None}
    assert rate_words(old) == words  # a plan.json without the newer fields
