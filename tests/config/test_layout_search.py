"""Layouts that are left to us: `auto`, --layout auto, and the table of --suggest."""

from __future__ import annotations

import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config import calibration, command_line, layout_search, memory, run_time, step_time
from nemo_workflow.config.layout_search import Problem
from nemo_workflow.config.memory import GIB
from nemo_workflow.config.resolve import make_plan, suggestion
from nemo_workflow.config.step_time import Cluster
from nemo_workflow.models import catalog
from nemo_workflow.run_dir.config_yaml import config_of
from nemo_workflow.utils import gpus
from nemo_workflow.utils.errors import Refusal
from tests.config.measured_runs import job
from tests.places import Place

PLAN = ("--dry-run", "--max-steps", "10", "--split", "9,1,0", "--seq-length", "2048")


def planned(place: Place, words: str) -> Any:
    return place.plan(*PLAN, *words.split(), accelerator=None, model_name=None, global_batch_size="32")


def problem(model: str, batch: int, limit: float, **fixed: Any) -> Problem:
    return Problem(job(model, 1, batch), catalog.find(model), 128_256, batch, limit, fixed)


def test_the_search_finds_what_trying_all_finds() -> None:
    """Every split of four GPUs by hand, with the least recomputation that fits."""
    cluster, limit = Cluster(gpus.BY_KEY["h100"], 4), 74 * GIB
    tried = []
    sizes = itertools.product((1, 2, 4), (1, 2, 4), (1, 2, 4), (1, 2, 4, 8, 16), (1, 2, 4, 8))
    recompute = [None, ("block", 1), ("block", 2), ("block", 4), ("block", 8), ("block", 12), ("uniform", 1)]
    for (tensor, pipeline, context, virtual, size), again in itertools.product(sizes, recompute):
        data = 4 // (tensor * pipeline * context)
        splits = {"tensor": tensor, "pipeline": pipeline, "virtual_pipeline": virtual, "context": context, "data": data}
        layers = 32 // pipeline
        if not data or 32 % (size * data) or (virtual > 1 and (pipeline == 1 or layers % virtual)):
            continue
        micro_batches = 32 // (size * data)
        if virtual > 1 and micro_batches % pipeline:
            continue
        way = {}
        if again:
            if again[1] > layers // virtual:
                continue
            way = {"recompute_granularity": "full", "recompute_method": again[0], "recompute_layers": again[1]}
        one = job("llama31_8b", size, 32, sequence_parallel=tensor > 1, **splits, **way)
        if memory.fullest(one).total <= limit:
            tried.append(step_time.estimate(one, cluster).total)
    best = layout_search.best(problem("llama31_8b", 32, limit), cluster, 1)[0]
    assert best.bytes <= limit
    assert best.time.total <= min(tried) * 1.001


def test_layout_auto_fits_and_says_why(shared: Place) -> None:
    plan = planned(shared, "-M llama31_8b -G 4 --layout auto")
    assert memory.fullest(memory.job_of(plan, catalog.find("llama31_8b"))).total <= plan.card.memory
    assert plan.layout.tensor * plan.layout.pipeline * plan.layout.context > 1  # 8B fits no H100 whole
    reason = next(note for note in plan.notes if "fastest layout that fits" in note)
    assert f"TP {plan.layout.tensor} x PP {plan.layout.pipeline}" in reason and "tokens/s per GPU" in reason
    guide = planned(shared, "-M llama31_8b -G 2")
    assert (guide.layout.tensor, guide.layout.pipeline, guide.layout.context) == (1, 1, 1)  # the guide's defaults
    assert any("--layout auto" in note for note in guide.notes)


def test_the_last_stage_may_have_fewer_layers(large: Place) -> None:
    """The output layer takes as long as two of the 8B's layers; seen on four cards: benchmarks/multi_gpu.md."""
    words = "-M llama31_8b -G 4 -mbs 1 --grad-reduce-in-bf16 --optimizer-precision bf16"
    (row,) = rows(f"{words} -gbs 64 --suggest 1")
    assert (row["flags"]["last_stage_layers"], row["flags"]["first_stage_layers"]) == (15, None)
    assert "--last-stage-layers 15" in " ".join(row["words"])
    assert "VPP 16, stages of 17-15 layers, micro batch 1" in suggested(f"{words} -gbs 64 --suggest 1")
    (even,) = rows(f"{words} -gbs 64 --suggest 1 -PP 2 --last-stage-layers 16")
    assert row["step_seconds"] < 0.97 * even["step_seconds"]
    split = ("-PP", "2", "-VPP", "16", "--seq-length", "8192")
    plan = large.plan(*PLAN[:5], *words.split(), *split, accelerator=None, model_name=None, global_batch_size="64")
    help_ = run_time.helpful(replace(plan, vocab_size=128_256), catalog.find("llama31_8b"))
    assert help_ and help_["words"] == "--last-stage-layers 15"


def test_what_was_chosen_is_written_down(large: Place) -> None:
    plan = large.plan(*PLAN[:5], "-M", "llama31_8b", "-G", "2", "-PP", "2", accelerator=None, model_name=None)
    chosen = replace(plan, settings=replace(plan.settings, last_stage_layers=15))
    assert config_of(chosen)["last-stage-layers"] == 15 and "first-stage-layers" not in config_of(chosen)


def test_ends_that_were_given_stay(shared: Place) -> None:
    plan = planned(shared, "-M llama31_8b -G 4 --layout auto --first-stage-layers 20 --grad-reduce-in-bf16")
    assert plan.layout.pipeline > 1 and plan.layout.first_stage_layers == 20
    with pytest.raises(Refusal, match=r"can.t be split over 1 x 4 GPUs"):
        planned(shared, "-M llama31_8b -G 4 -PP 4 --layout auto --first-stage-layers 20 --last-stage-layers 20")


def test_what_was_given_stays(shared: Place) -> None:
    plan = planned(shared, "-M llama31_8b -G 8 --layout auto -TP 4 -SP -mbs 2")
    assert (plan.layout.tensor, plan.settings.micro_batch_size) == (4, 2)
    assert plan.layout.sequence_parallel


@pytest.mark.parametrize(
    ("words", "free"),
    [
        ("-TP auto", "tensor"),
        ("-PP auto", "pipeline"),
        ("-PP 2 -VPP auto", "virtual_pipeline"),
        ("-CP auto", "context"),
        ("-mbs auto", "micro_batch"),
    ],
)
def test_each_flag_takes_auto_by_itself(shared: Place, words: str, free: str) -> None:
    """What is not auto stays at the guide's default (a micro batch that is left out is ours as ever)."""
    plan = planned(shared, f"-M llama32_3b -G 4 --gpu-memory {32 if free in ('tensor', 'pipeline') else 48} {words}")
    given = {"tensor": 1, "pipeline": 2 if "-PP 2" in words else 1, "virtual_pipeline": 1, "context": 1}
    kept = {name: getattr(plan.layout, name) for name in given if name != free}
    assert kept == {name: value for name, value in given.items() if name != free}
    if free in ("tensor", "pipeline"):
        assert getattr(plan.layout, free) > 1  # 32 GiB don't hold it otherwise
    assert isinstance(plan.settings.micro_batch_size, int)


def test_recomputation_alone_may_be_auto(shared: Place) -> None:
    plan = planned(shared, "-M llama32_3b -G 1 -mbs 1 --seq-length 8192 --recompute-granularity auto --gpu-memory 64")
    assert plan.settings.recompute_granularity == "full"
    assert plan.settings.recompute_method == "block"
    enough = planned(shared, "-M llama32_3b -G 1 -mbs 1 --seq-length 8192 --recompute-granularity auto --gpu h200")
    assert enough.settings.recompute_granularity is None


def test_experts_may_be_auto(large: Place) -> None:
    plan = planned(large, "-M mixtral_8x7b -G 8 -N 8 --executor slurm --layout auto -gbs 256")
    assert plan.layout.expert > 1
    assert memory.fullest(memory.job_of(plan, catalog.find("mixtral_8x7b"))).total <= plan.card.memory


def test_on_a_cpu_auto_is_one(shared: Place) -> None:
    plan = shared.plan("--layout", "auto", "-TP", "auto", "-G", "2")
    assert (plan.layout.tensor, plan.layout.pipeline, plan.layout.data) == (1, 1, 2)


def test_where_nothing_fits_the_refusal_says_what_it_takes(shared: Place) -> None:
    for asked, named in (
        ("--layout auto", "--layout auto"),
        ("-TP auto", "--tensor-model-parallel-size auto"),
        ("-PP auto -CP auto", "--pipeline-model-parallel-size auto, --context-parallel-size auto"),
    ):
        with pytest.raises(Refusal) as caught:
            planned(shared, f"-M llama31_70b -G 2 {asked}")
        (problem_,) = caught.value.problems
        assert problem_.startswith(f"{named}: no layout of llama31_70b fits 1 x 2 GPUs of 80 GiB: the smallest takes ")
        assert problem_.endswith("; python pretrain_llm.py -M llama31_70b --suggest shows what it needs")
    with pytest.raises(
        Refusal, match=r"python pretrain_llm\.py -M llama31_8b --gpu 4090 --suggest shows what it needs$"
    ):
        planned(shared, "-M llama31_8b -G 1 --layout auto --gpu 4090")


def test_the_runs_config_holds_the_layout_that_was_chosen(shared: Place, tmp_path: Path) -> None:
    """Started again from config.yaml, also on another machine, the run has the same layout."""
    plan = planned(shared, "-M llama31_8b -G 4 --layout auto")
    written = config_of(plan)
    assert "layout" not in written
    again = tmp_path / "config.yaml"
    again.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in written.items()))
    repeated = make_plan(command_line.parse(["--config", str(again), "--dry-run"]))
    assert repeated.layout == plan.layout
    for name in ("micro_batch_size", "recompute_granularity", "recompute_method", "recompute_num_layers"):
        assert getattr(repeated.settings, name) == getattr(plan.settings, name)


# -- --suggest --------------------------------------------------------------------------------------------------------


def test_the_cpu_that_was_asked_for_is_said_to_be_left_out() -> None:
    words = "-M llama32_1b -gbs 64 --suggest 1"
    assert "--accelerator" not in suggested(words)
    assert suggested(f"{words} --accelerator cpu").endswith("without the --accelerator cpu that was given)")


def suggested(words: str) -> str:
    return suggestion(command_line.parse(words.split()), ["pretrain_llm.py"])


def rows(words: str) -> list[dict[str, Any]]:
    return json.loads(suggested(f"{words} --dry-run json"))["rows"]


def test_the_table_is_sorted_and_fits() -> None:
    found = rows("-M llama31_8b --suggest 7 -G 4 -gbs 32")
    assert len(found) == 7
    times = [row["step_seconds"] for row in found]
    assert times == sorted(times)
    assert max(row["bytes"] for row in found) <= 0.93 * gpus.BY_KEY["h100"].memory * GIB
    assert max(row["bytes"] for row in rows("-M llama31_8b --suggest -G 8 -gbs 32 --max-memory 40")) <= 40 * GIB


def test_each_command_of_the_table_is_the_plan_of_its_row(large: Place) -> None:
    data = f"--hf-model-id {large.hf} --dataset-dir {large.data.parent} --split 9,1,0 --max-steps 10"
    words = f"-M llama31_8b --suggest 5 -G 4 -gbs 32 --seq-length 2048 {data}"
    text, found = suggested(words), rows(words)
    commands = [line.partition(": ")[2] for line in text.splitlines() if line[:1].isdigit() and "python" in line]
    assert len(commands) == len(found) == 5
    for command, row in zip(commands, found, strict=True):
        plan = make_plan(command_line.parse([*shlex.split(command)[2:], "--dry-run"]))
        assert plan.time is not None
        assert plan.time["step_seconds"] == pytest.approx(row["step_seconds"])
        assert plan.time["run_seconds"] == pytest.approx(row["run_seconds"])


@pytest.mark.slow
def test_without_gpus_it_says_what_the_model_needs() -> None:
    found = rows("-M llama31_8b --suggest -gbs 128")
    assert [row["nodes"] * row["gpus_per_node"] for row in found] == [1, 2, 4, 8, 16, 32, 64]
    assert found[0]["least_bytes"] > 80 * GIB and "flags" not in found[0]
    text = suggested("-M llama31_8b --suggest -gbs 128 --gpu 4090")
    assert "does not fit: the smallest layout takes" in text and "from its data sheet, not measured" in text
    assert "--executor slurm" in text  # more than a node


@pytest.mark.slow
def test_the_fewest_gpus_that_make_a_deadline_come_first() -> None:
    words = "-M llama31_8b --suggest -gbs 128 --max-steps 20000"
    found = rows(f"{words} --deadline 3d")
    assert all(row["run_seconds"] <= 3 * 86400 for row in found)
    numbers = [row["nodes"] * row["gpus_per_node"] for row in found]
    assert numbers == sorted(numbers) and numbers[0] > 4
    every = {row["nodes"] * row["gpus_per_node"]: row["run_seconds"] for row in rows(words) if "flags" in row}
    assert {number for number, seconds in every.items() if seconds <= 3 * 86400} == set(numbers)
    with pytest.raises(Refusal, match="no layout makes the run in 1 h 00 min; 64 GPUs take"):
        suggested(f"{words} --deadline 1h")
    with pytest.raises(Refusal, match="--deadline: needs to know the run's length; add --max-steps"):
        suggested("-M llama31_8b --suggest --deadline 1h")
    with pytest.raises(Refusal, match="--deadline 24: expected a number and m, h or d"):
        suggested("-M llama31_8b --suggest --deadline 24")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--fp8 --optimizer-precision bf16", "--optimizer-precision bf16: trains wrongly with weights in fp8"),
        ("--fp8-output-layer", "--fp8-output-layer: does nothing without --fp8"),
        ("--fp8 --precision 32", "--fp8: goes with bf16-mixed or 16-mixed, not with --precision 32"),
        ("--optim-cpu-offloading --disable-dist-optim", "--optim-cpu-offloading: needs the distributed optimizer"),
    ],
)
def test_no_command_is_suggested_that_a_start_refuses(flags: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        suggested(f"-M llama31_8b --suggest 1 -G 4 -gbs 32 {flags}")


def test_no_layout_is_suggested_that_a_start_refuses() -> None:
    """The output layer in fp8 is whole on each GPU."""
    for row in rows("-M llama32_1b --suggest 40 -G 4 -gbs 32 --fp8 --fp8-output-layer"):
        assert row["flags"]["tensor_model_parallel_size"] == 1


def test_flags_of_a_suggestion_alone_are_refused(shared: Place) -> None:
    with pytest.raises(Refusal) as caught:
        shared.plan("--deadline", "24h", "--max-memory", "40", "--gpu", "h100")
    assert caught.value.problems == [
        "--max-memory, --deadline: does nothing without --suggest; add it or leave it out",
        "--gpu: this run trains on CPU ranks; leave it out, or plan for GPUs with --accelerator gpu --dry-run",
    ]


def test_every_recipe_has_a_suggestion() -> None:
    for model in catalog.load():
        assert rows(f"-M {model} --suggest 1 -G 2 -gbs 256"), model


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["llama31_8b", "llama31_405b", "mixtral_8x22b", "qwen3_30b_a3b", "deepseek_v3", "t5_11b"]
)
def test_the_largest_have_a_suggestion(model: str) -> None:
    """A row's GPUs may be too few for the largest."""
    found = rows(f"-M {model} --suggest -gbs 256")
    assert len(found) == 7
    assert any("flags" in row or row["least_bytes"] for row in found)


def test_a_layout_that_a_rule_of_the_start_forbids_is_left_out() -> None:
    whole = problem("llama31_8b", 32, 1000 * GIB)
    some = replace(whole, legal=lambda one: one.layout.tensor == 2)
    assert layout_search.best(some, Cluster(gpus.BY_KEY["h100"], 4), 1)[0].job.layout.tensor == 2


def test_the_plan_names_the_calibration_and_uses_it(place: Place) -> None:
    before = place.plan().time
    (place.root / "out").mkdir()
    calibration.keep(str(place.root / "out"), None, False, 3.0, {})
    after = place.plan().time
    assert before is not None and after is not None
    assert after["step_seconds"] == pytest.approx(3 * before["step_seconds"])
    assert after["calibration"] == str(place.root / "out" / "calibration.json")
    (place.root / "out" / "calibration.json").write_text("[]")
    with pytest.raises(Refusal, match="is no calibration"):
        place.plan()
