"""Sizes of the parallel groups, the pipeline's idle share, and the layers of its stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_workflow.config.parallelism import Layout, enough_for_chunks, layers_a_stage, make_layout, pieces
from nemo_workflow.config.settings import Settings
from nemo_workflow.models import catalog

ONE = Layout(1, 1, 1, 1, 1, 1, 1, False)
WIDE = Layout(4, 8, tensor=2, pipeline=4, virtual_pipeline=2, context=2, expert=4, sequence_parallel=True)
STOCK = {"pipeline": 1, "embedding_counts": False, "loss_counts": False, "first_stage_layers": None, "last_stage_layers": None}  # fmt: skip


def test_the_ranks_are_the_product_of_the_groups() -> None:
    assert (ONE.ranks, ONE.data, ONE.expert_data) == (1, 1, 1)
    assert (WIDE.ranks, WIDE.data, WIDE.expert_data) == (32, 2, 1)
    assert replace(WIDE, expert_tensor=1).expert_data == 2
    assert replace(WIDE, expert=2, expert_tensor=2).expert_data == 2


@pytest.mark.parametrize(
    ("layout", "batch", "micro", "count", "idle"),
    [
        (ONE, 16, 4, 4, 0.0),
        (WIDE, 64, 2, 16, 3 / 35),  # 2 chunks x 16 micro batches, 3 steps to fill and drain
        (replace(WIDE, virtual_pipeline=1), 64, 2, 16, 3 / 19),
        (WIDE, 1, 2, 0, 3 / 5),  # too few sequences: counted as one, refused elsewhere
    ],
)
def test_micro_batches_and_the_idle_share(layout: Layout, batch: int, micro: int, count: int, idle: float) -> None:
    assert layout.micro_batches(batch, micro) == count
    assert layout.bubble(batch, micro) == pytest.approx(idle)


def test_a_layout_is_that_of_the_flags() -> None:
    settings = Settings(
        num_nodes=2, num_gpus=8, tensor_model_parallel_size=2, pipeline_model_parallel_size=4, sequence_parallel=True,
        virtual_pipeline_model_parallel_size=3, context_parallel_size=5, expert_model_parallel_size=6,
    )  # fmt: skip
    assert make_layout(settings, None, "gpu") == Layout(2, 8, 2, 4, 3, 5, 6, True, None)


def test_experts_are_the_recipes_where_no_flag_says_otherwise() -> None:
    recipe = replace(catalog.find("llama_tiny"), layout={"expert": 4, "expert_tensor": 2})
    unset = make_layout(Settings(expert_model_parallel_size=None), recipe, "gpu")
    assert (unset.expert, unset.expert_tensor) == (4, 2)
    assert make_layout(Settings(expert_model_parallel_size=1), recipe, "gpu").expert == 1
    assert make_layout(Settings(expert_model_parallel_size=None), None, "gpu").expert == 1


@pytest.mark.parametrize(
    ("accelerator", "given", "ranks"), [("cpu", (), 1), ("cpu", ("num_gpus",), 8), ("gpu", (), 8), ("gpu", ("num_gpus",), 8)]
)  # fmt: skip
def test_a_cpu_has_one_rank_unless_more_are_asked_for(accelerator: str, given: tuple[str, ...], ranks: int) -> None:
    assert make_layout(Settings(num_gpus=8, given=frozenset(given)), None, accelerator).ranks_per_node == ranks


@pytest.mark.parametrize(
    ("layers", "stages", "stock", "split"),
    [
        (7, 1, {}, [7]),
        (8, 4, {}, [2, 2, 2, 2]),
        (6, 4, {"embedding_counts": True, "loss_counts": True}, [1, 2, 2, 1]),
        (7, 4, {"embedding_counts": True}, [1, 2, 2, 2]),
        (7, 4, {"loss_counts": True}, [2, 2, 2, 1]),
        (61, 4, {"pipeline": 4, "last_stage_layers": 13}, [16, 16, 16, 13]),
        (61, 4, {"pipeline": 4, "first_stage_layers": 13}, [13, 16, 16, 16]),
        (10, 4, {"pipeline": 4, "first_stage_layers": 1, "last_stage_layers": 3}, [1, 3, 3, 3]),
        (60, 2, {"pipeline": 4, "last_stage_layers": 13}, [30, 30]),  # the recipe's ends hold for its own stages only
        (61, 4, {"pipeline": 4, "last_stage_layers": 13, "flags": {"first_stage_layers": 16}}, [16, 16, 16, 13]),
        (32, 2, {"flags": {"last_stage_layers": 15}}, [17, 15]),
        (32, 2, {"flags": {"first_stage_layers": 17, "last_stage_layers": 15}}, [17, 15]),
        (32, 4, {"flags": {"first_stage_layers": 9, "last_stage_layers": 7}}, [9, 8, 8, 7]),
        (32, 4, {"embedding_counts": True, "loss_counts": True, "flags": {"last_stage_layers": 5}}, [9, 9, 9, 5]),
        ({"num_layers": 4, "encoder_num_layers": 4}, 4, {}, [2, 2, 2, 2]),
        ({"num_layers": 4, "encoder_num_layers": None}, 4, {}, [1, 1, 1, 1]),
    ],
)  # fmt: skip
def test_the_layers_of_each_stage(layers: Any, stages: int, stock: dict[str, Any], split: list[int]) -> None:
    sizes = layers if isinstance(layers, dict) else {"num_layers": layers}
    found = layers_a_stage(sizes, STOCK | stock, replace(ONE, pipeline=stages, **stock.get("flags", {})))
    assert found == split and all(type(number) is int for number in found)


def test_stages_are_dealt_out_to_chunks_as_megatron_writes_it() -> None:
    """Its own class reads the words back: tests/e2e/plan/test_recipe.py."""
    assert (
        pieces([17, 15], 8) == "Ettt" + "|tt" * 14 + "|tL"
    )  # as it was measured on four GPUs (benchmarks/multi_gpu.md)
    assert pieces([3, 1], 2) == "Ett|t|t|L"
    assert pieces([2, 2], 1, predicted=1) == "Ett|ttmL"
    assert [enough_for_chunks(stages, 2) for stages in ([2, 2], [3, 1], [1, 3], [2, 0])] == [True, True, False, False]


@pytest.mark.parametrize(
    ("layers", "stock", "said"),
    [
        (7, {}, "7 layers over 4 stages"),
        (7, {"embedding_counts": True, "loss_counts": True}, "9 layers (embedding and loss count as a layer each) over 4 stages"),
        (60, {"pipeline": 4, "last_stage_layers": 13}, "47 layers over 3 stages"),
        (4, {"pipeline": 4, "first_stage_layers": 2, "last_stage_layers": 2}, "0 layers over 2 stages"),
        (60, {"pipeline": 4, "first_stage_layers": 7, "last_stage_layers": 2}, "51 layers over 2 stages"),
    ],
)  # fmt: skip
def test_layers_that_fit_no_stages(layers: int, stock: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as raised:
        layers_a_stage({"num_layers": layers}, STOCK | stock, replace(ONE, pipeline=4))
    assert str(raised.value) == said
