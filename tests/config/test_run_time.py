"""Times of a whole run that no card has a part in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config import memory, optimizer_states, run_time, step_time
from nemo_workflow.config.card import PlannedCard
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.config.settings import Settings
from nemo_workflow.config.step_time import Cluster
from nemo_workflow.models import catalog, flops
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.utils import gpus, machine
from nemo_workflow.utils.gpus import GIB
from tests.config.measured_runs import job
from tests.places import Place

TINY = job("llama_tiny", 8, 16, 256, words=4096)
# of a run without validations, whose length has no part in a step's time
SCHEDULE = Schedule(100, 0, 0, 1e-3, 1e-4, 50, 50, 0)


@pytest.mark.parametrize(("flags", "rate"), [("fpu avx2 avx512_bf16 amx_bf16 amx_tile", 100e9), ("fpu avx2", 36e9)])
def test_a_cpus_rate_follows_its_instructions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, rate: float
) -> None:
    """/proc/cpuinfo as two kinds of processor have it: a file of the test's own."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    machine.CPUINFO.write_text(f"model name\t: Some CPU\nflags\t\t: {flags}\n\nflags\t\t: {flags}\n")
    tokens = 16 * 256
    found = run_time.of_cpu_run(TINY, SCHEDULE, 1.0)
    wanted = found["step_seconds"] * rate * machine.facts()["cores"]
    assert 15e6 < wanted / tokens < 60e6  # operations a token of a model of four million parameters
    exact = run_time.of_cpu_run(replace(TINY, precision="32"), SCHEDULE, 1.0)
    assert exact["step_seconds"] == pytest.approx(wanted / 36e9 / machine.facts()["cores"])


def test_a_machine_that_tells_no_instructions_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.instructions() == frozenset()


@pytest.mark.parametrize(
    ("schedule", "validations", "saves"),
    [
        (Schedule(100, 0, 0, 1e-3, 1e-4, 50, 50, 0), 0, 2),  # no batches: no validation
        (Schedule(100, 0, 0, 1e-3, 1e-4, 50, 50, 3), 2, 2),
        (Schedule(100, 0, 0, 1e-3, 1e-4, 30, 30, 3), 3, 4),  # a validation in whole intervals, a last save of what is left
        (Schedule(100, 0, 0, 1e-3, 1e-4, 30, 30, 3, first_step=60), 1, 2),  # of its own 40 steps
    ],
)  # fmt: skip
def test_a_run_takes_its_steps_validations_saves_and_start(schedule: Schedule, validations: int, saves: int) -> None:
    """Two nodes of eight ranks: each node writes its half, each rank copies its sixteenth."""
    big = replace(TINY, layout=replace(TINY.layout, nodes=2, ranks_per_node=8))
    size = optimizer_states.checkpoint_bytes(memory.model_of(big), big.precision, big.sgd)
    found = run_time.run_seconds(big, 6.0, schedule, start=10.0)
    wanted = (
        10
        + schedule.steps * 6
        + validations * schedule.limit_val_batches * 2
        + size / 16 / 2.2e9
        + (saves - 1) * size / 16 / 28e9
        + size / 2 / 0.6e9
    )
    assert found == pytest.approx(wanted, rel=1e-12)
    assert run_time.run_seconds(big, 6.0, schedule) == pytest.approx(wanted + 45, rel=1e-12)


def test_a_step_of_cpu_ranks_is_operations_over_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "facts", lambda: {"cores": 4})
    monkeypatch.setattr(machine, "instructions", lambda: frozenset())
    two = replace(TINY, layout=replace(TINY.layout, ranks_per_node=2), micro_batch=4, micro_batches=3)
    tokens = 4 * 3 * 2 * 256
    work = flops.flops_a_token(two.family, two.sizes, two.vocabulary, two.seq_length)
    assert work is not None
    seconds = 1.5 * tokens * work / (36e9 * 4)
    found = run_time.of_cpu_run(two, SCHEDULE, 1.5)
    assert found == {
        "gpu": None, "measured": False, "scale": 1.5, "step_seconds": pytest.approx(seconds), "parts": {},
        "tokens_per_second": pytest.approx(tokens / seconds), "bound": "matrix products",
        "run_seconds": pytest.approx(run_time.run_seconds(two, seconds, SCHEDULE, 20.0)),
    }  # fmt: skip
    # a family without the formula: six operations a parameter
    bert = job("bert_110m", 8, 16, 256)
    other = run_time.of_cpu_run(bert, SCHEDULE, 1.0)["step_seconds"]
    assert other == pytest.approx(16 * 256 * 6 * memory.model_of(bert).total / (36e9 * 4))


def test_the_time_of_a_run_on_gpus() -> None:
    eight = job("llama31_8b", 1, 64, tensor=2, data=4)
    settings = Settings(num_gpus=8, num_nodes=1)
    assert (
        run_time.of_run(eight, PlannedCard(None, "a card", 80 * GIB, "this machine's GPU"), settings, SCHEDULE, 1.0)
        is None
    )
    for key, measured in (("h100", True), ("4090", False)):
        gpu = gpus.BY_KEY[key]
        found = run_time.of_run(eight, PlannedCard(key, "", 80 * GIB, "--gpu"), settings, SCHEDULE, 2.0)
        step = step_time.estimate(eight, Cluster(gpu, 8, None, gpu.hopper, 2.0))
        work = flops.flops_a_token("gpt", eight.sizes, eight.vocabulary, 8192)
        run = run_time.run_seconds(eight, step.total, SCHEDULE, 55.0)
        assert work is not None and found == {
            "gpu": key, "measured": measured, "scale": 2.0, "step_seconds": step.total, "parts": dict(step.parts),
            "tokens_per_second": pytest.approx(8 * step.tokens_per_second), "bound": step.bound,
            "tokens_per_second_per_gpu": step.tokens_per_second, "run_seconds": run,
            "mfu": pytest.approx(step.tokens_per_second * work / (gpu.bf16 * 1e12)), "gpu_hours": pytest.approx(run * 8 / 3600),
        }  # fmt: skip
    bert = run_time.of_run(
        job("bert_110m", 8, 16, 256), PlannedCard("h100", "", 80 * GIB, "--gpu"), settings, SCHEDULE, 1.0
    )
    assert bert is not None and bert["mfu"] is None


SPLIT = job("llama31_8b", 2, 64, tensor=2, pipeline=4, virtual_pipeline=2, context=3, expert=5, data=1)


@pytest.mark.parametrize(
    ("name", "change", "words", "value"),
    [
        ("micro_batch", {}, "-mbs 2", 2),
        ("recompute", {}, "no recomputation", None),
        (
            "recompute",
            {"recompute_granularity": "full", "recompute_method": "block", "recompute_layers": 5},
            "--recompute-method block --recompute-num-layers 5",
            None,
        ),
        ("tensor", {}, "-TP 2", 2),
        ("pipeline", {}, "-PP 4", 4),
        ("virtual_pipeline", {}, "-VPP 2", 2),
        ("context", {}, "-CP 3", 3),
        ("expert", {}, "-EP 5", 5),
        (
            "stages",
            {"layout": replace(SPLIT.layout, first_stage_layers=9, last_stage_layers=7)},
            "--first-stage-layers 9 --last-stage-layers 7",
            (9, 7),
        ),
        ("stages", {}, "stages with as many layers each", (None, None)),
    ],
)
def test_a_split_as_flags(name: str, change: dict[str, Any], words: str, value: Any) -> None:
    changed = replace(SPLIT, **change)
    assert (run_time._flags(name, changed), run_time._value(changed, name)) == (words, value)
    sequence = replace(changed, layout=replace(changed.layout, sequence_parallel=True))
    assert run_time._flags(name, sequence) == words + (" -SP" if name == "tensor" else "")


def plan_on(
    place: Place, *flags: str, cards: str = "1", batch: str = "16", length: str = "8192"
) -> tuple[Plan, Recipe]:
    """A plan of llama32_1b for H100s of one node."""
    words = ("--gpu", "h100", "-G", cards, "--seq-length", length, "--max-steps", "10", "--split", "1,0,0", "--dry-run")
    plan = place.plan(*words, *flags, accelerator="gpu", model_name="llama32_1b", global_batch_size=batch)
    return plan, catalog.find("llama32_1b")


@pytest.mark.parametrize(
    ("flags", "words", "change"),
    [
        (("-mbs", "1"), "-mbs 4", {"micro_batch": 4, "micro_batches": 4}),
        (("-mbs", "4"), "--fp8", {"fp8": True}),
        (("-mbs", "4", "--fp8"), None, {}),
        (("-mbs", "1", "--recompute-granularity", "full", "--recompute-method", "block", "--recompute-num-layers", "16"), "no recomputation",
         {"recompute_granularity": None, "recompute_method": None, "recompute_layers": 0}),
        (("-mbs", "1", "--precision", "32"), None, {}),
    ],
)  # fmt: skip
def test_the_flag_that_would_save_most(
    large: Place, flags: tuple[str, ...], words: str | None, change: dict[str, Any]
) -> None:
    plan, recipe = plan_on(large, *flags)
    found = run_time.helpful(plan, recipe)
    if words is None:
        assert found is None, found
        return
    cluster = Cluster(gpus.BY_KEY["h100"], 1, None, True, 1.0)
    now = memory.job_of(plan, recipe)
    saves = 1 - step_time.estimate(replace(now, **change), cluster).total / step_time.estimate(now, cluster).total
    assert found == {"words": words, "saves": pytest.approx(saves)} and saves > 0.02


def test_less_tensor_parallelism_is_named_where_the_model_fits(large: Place) -> None:
    plan, recipe = plan_on(large, "-TP", "2", "-mbs", "1", cards="2")
    found = run_time.helpful(plan, recipe)
    now = memory.job_of(plan, recipe)
    cluster = Cluster(gpus.BY_KEY["h100"], 2, None, True, 1.0)
    assert found is not None and found["words"] == "-TP 1"
    whole = replace(now, layout=replace(now.layout, tensor=1), micro_batches=8)
    assert found["saves"] == pytest.approx(
        1 - step_time.estimate(whole, cluster).total / step_time.estimate(now, cluster).total
    )


def test_fp8_is_not_named_where_its_products_cannot_be_divided(large: Place) -> None:
    """Three sequences of 8,200 tokens are no multiple of 16."""
    assert run_time.helpful(*plan_on(large, "-mbs", "3", batch="3", length="8200")) is None
    plan, recipe = plan_on(large, "-mbs", "3", batch="3", length="8192")
    found = run_time.helpful(plan, recipe)
    assert found is not None and found["words"] == "--fp8"


def test_nothing_helps_where_no_time_is_planned(large: Place) -> None:
    plan, recipe = plan_on(large, "-mbs", "1")
    assert run_time.helpful(replace(plan, card=None), recipe) is None
    assert run_time.helpful(replace(plan, card=replace(plan.card, key=None)), recipe) is None


@pytest.mark.parametrize(("change", "bytes_per_parameter"), [({}, 14), ({"sgd": True}, 10), ({"precision": "32"}, 12)])
def test_a_save_is_of_what_the_optimizer_keeps(change: dict[str, Any], bytes_per_parameter: int) -> None:
    changed = replace(TINY, **change)
    size = optimizer_states.checkpoint_bytes(memory.model_of(changed), changed.precision, changed.sgd)
    found = run_time.run_seconds(changed, 0.0, SCHEDULE, start=0.0)
    assert found == pytest.approx(size / 2.2e9 + size / 28e9 + size / 0.6e9)
    assert size / memory.model_of(changed).total == pytest.approx(bytes_per_parameter, rel=0.01)
