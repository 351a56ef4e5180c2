"""Parameter counts against NeMo's own, the memory formula against a measured card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_workflow.config import memory, optimizer_states
from nemo_workflow.config.memory import GIB, Job, fullest
from nemo_workflow.config.parallelism import Layout
from nemo_workflow.models import catalog, parameters


def counted(name: str) -> int:
    recipe = catalog.find(name)
    vocabulary = parameters.padded_vocabulary(recipe.sizes, recipe.reference_vocab)
    return parameters.count(recipe.family, recipe.model_class, recipe.sizes, vocabulary).total


@pytest.mark.parametrize("name", [recipe.name for recipe in catalog.load().values() if recipe.parameters])
def test_parameters_are_nemos(name: str) -> None:
    """`parameters` in the catalogue was counted on NeMo's modules; test_nemo.py counts them again."""
    assert counted(name) == catalog.find(name).parameters


# Recipes that a CPU can't build, as their published checkpoints count (test_gpu.py builds all of them)
PUBLISHED = {
    "deepseek_v2": 235_741_434_880,
    "deepseek_v2_lite": 15_706_484_224,
    "gemma2_27b": 27_227_128_320,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma3_1b": 999_885_952,
    "mamba2_130m": 128_989_632 + 50_288 * 768,  # published with tied embeddings
    "mamba2_2_7b": 2_702_599_680 + 50_288 * 2560,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert counted(name) == PUBLISHED[name]


def job(micro_batch: int, **change: Any) -> Job:
    """Llama-3.2-1B, sequences of 8192, one GPU."""
    recipe = catalog.find("llama32_1b")
    values: dict[str, Any] = {
        "family": recipe.family,
        "model_class": recipe.model_class,
        "sizes": recipe.sizes,
        "vocabulary": 128_256,
        "layout": Layout(1, 1, 1, 1, 1, 1, 1, False),
        "seq_length": 8192,
        "micro_batch": micro_batch,
        "micro_batches": 4,
        "stages": (16,),
    }
    return Job(**values | change)


def on(planned: Job, **sizes: Any) -> Job:
    layout = {"nodes": 1, "tensor": 1, "pipeline": 1, "virtual_pipeline": 1, "context": 1, "expert": 1}
    layout |= {"sequence_parallel": False} | sizes
    ranks = layout["tensor"] * layout["pipeline"] * layout["context"] * layout.pop("data", 1)
    pipeline = layout["pipeline"]
    return Job(
        **planned.__dict__ | {"layout": Layout(ranks_per_node=ranks, **layout), "stages": (16 // pipeline,) * pipeline}
    )


def other(name: str, micro_batch: int, **change: Any) -> Job:
    """Another model on one GPU, with sequences of 4096, and a vocabulary of its own or the tokenizer's."""
    recipe = catalog.find(name)
    vocabulary = parameters.padded_vocabulary(recipe.sizes, 128_256)
    same = {"family": recipe.family, "model_class": recipe.model_class, "sizes": recipe.sizes, "vocabulary": vocabulary}
    return job(micro_batch, stages=(recipe.sizes["num_layers"],), **same, **{"seq_length": 4096, **change})


EVERY_LAYER = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_layers": 1}
BLOCK_OF_8 = {"recompute_granularity": "full", "recompute_method": "block", "recompute_layers": 8}


# torch.cuda.max_memory_allocated on an H100 80GB, torch 2.11, TE 2.9, megatron-core 0.15.3 (docs/memory.md)
MEASURED = [
    ("stock, micro batch 1", job(1, cross_entropy="native"), 39.9),
    ("stock, micro batch 2", job(2, cross_entropy="native"), 59.0),
    ("TE cross entropy, micro batch 2", job(2), 43.9),
    ("TE cross entropy, micro batch 4", job(4), 66.6),
    ("fp8 current scaling, micro batch 2", job(2, fp8=True), 41.3),
    ("fp8 current scaling, micro batch 4", job(4, fp8=True), 61.3),
    ("fp8 delayed, native cross entropy, micro batch 2", job(2, fp8=True, cross_entropy="native"), 56.5),
    ("8 of 16 layers recomputed", job(2, **BLOCK_OF_8), 35.2),
    ("activations of 8 of 16 layers offloaded", job(2, offloaded_layers=8), 34.7),
    ("our defaults, micro batch 4", job(4), 66.8),
    ("our defaults with fp8 (delayed), micro batch 4", job(4, fp8=True), 61.8),
    ("our defaults, micro batch 4 of 2048 tokens", job(4, seq_length=2048), 32.8),
    ("fp8 (delayed), micro batch 4 of 2048 tokens", job(4, seq_length=2048, fp8=True), 31.5),
    (
        "our defaults, every layer recomputed, micro batch 4",
        job(4, **EVERY_LAYER),
        31.7,
    ),
    ("our defaults, activations of 8 of 16 layers offloaded", job(2, offloaded_layers=8), 34.8),
    ("our defaults, micro batch 1", job(1), 32.8),
    ("our defaults, micro batch 2, selective recompute", job(2, recompute_granularity="selective"), 44.1),
    ("our defaults, moments in bf16, micro batch 2", job(2, bf16_moments=True), 39.5),
    ("our defaults, 8 of 16 layers recomputed, micro batch 2", job(2, **BLOCK_OF_8), 35.3),
    ("our defaults, optimizer offloaded, micro batch 2", job(2, optimizer_offload=1.0), 30.3),
    ("our defaults, half of the optimizer offloaded, micro batch 2", job(2, optimizer_offload=0.5), 37.1),
    (
        "fp32, micro batch 1 of 2048 tokens",
        job(1, seq_length=2048, precision="32", score_matrices=True),
        34.1,
    ),
    ("two GPUs, micro batch 4", on(job(4), data=2), 59.9),
    ("two GPUs with fp8, micro batch 4", on(job(4, fp8=True), data=2), 54.9),
    ("two GPUs, TP2 with sequence parallelism, micro batch 8", on(job(8), tensor=2, sequence_parallel=True), 56.5),
    ("two GPUs, micro batch 8", on(job(8), data=2), 105.3),
    ("two GPUs with fp8, micro batch 8", on(job(8, fp8=True), data=2), 95.3),
    ("two GPUs, CP2, micro batch 16", on(job(16), context=2), 105.3),
    ("micro batch 8", job(8), 112.2),
    ("fp8, micro batch 8", job(8, fp8=True), 102.2),
    ("llama_tiny, micro batch 256 of 256 tokens", other("llama_tiny", 256, seq_length=256), 19.1),
    ("Qwen2.5-0.5B, micro batch 8 of 4096 tokens", other("qwen25_500m", 8), 50.1),
    ("Qwen2.5-0.5B, micro batch 16 of 4096 tokens", other("qwen25_500m", 16), 89.3),
    ("Qwen2.5-1.5B, micro batch 8 of 4096 tokens", other("qwen25_1p5b", 8), 102.7),
    ("Llama-3.2-3B, micro batch 1 of 2048 tokens", other("llama32_3b", 1, seq_length=2048), 60.2),
    (
        "Qwen3-4B, every layer recomputed, micro batch 1 of 2048 tokens",
        other("qwen3_4b", 1, seq_length=2048, **EVERY_LAYER),
        69.5,
    ),
    (
        "Nemotron-3 8B, optimizer offloaded, every layer recomputed, micro batch 1 of 2048 tokens",
        other("nemotron3_8b", 1, seq_length=2048, optimizer_offload=1.0, **EVERY_LAYER),
        55.8,
    ),
    (
        "Llama-3.2-3B, 8 of 28 layers recomputed, micro batch 1 of 8192 tokens",
        other("llama32_3b", 1, seq_length=8192, **BLOCK_OF_8),
        71.2,
    ),
]


@pytest.mark.parametrize(("what", "planned", "gib"), MEASURED, ids=[row[0] for row in MEASURED])
def test_the_formula_is_close_to_the_card(what: str, planned: Job, gib: float) -> None:
    usage = fullest(planned)
    allocated = (usage.total - usage.libraries) / GIB  # the allocator doesn't count the libraries
    assert allocated == pytest.approx(gib, rel=0.015), what


@pytest.mark.parametrize(("virtual", "gib"), [(1, 50.9), (2, 60.5)])
def test_the_first_of_two_stages_is_planned_a_little_over_the_card(virtual: int, gib: float) -> None:
    """Micro batch 4, eight of them in flight: measured on two H200s. A whole layer is planned for the one at work; it takes half of that."""
    usage = memory.usage_of(on(job(4, micro_batches=8), pipeline=2, virtual_pipeline=virtual), 0)
    assert 1 <= (usage.total - usage.libraries) / GIB / gib < 1.025


def test_weights_are_held_twice_while_they_are_laid_into_buffers() -> None:
    """Which counts where the optimizer is not beside them: offloaded, or one of many ranks' share."""
    offloaded = fullest(other("nemotron3_8b", 1, seq_length=2048, optimizer_offload=1.0, **EVERY_LAYER))
    assert offloaded.total - offloaded.libraries == 2 * offloaded.weights + offloaded.gradients
    shared = fullest(on(job(1, **EVERY_LAYER), data=64))
    assert shared.total - shared.libraries > shared.setup  # its activations are more
    assert fullest(job(1)).total - memory.LIBRARIES > fullest(job(1)).setup


def test_an_offloaded_optimizer_leaves_its_fraction_on_the_host() -> None:
    assert fullest(job(1, optimizer_offload=0.5)).optimizer == fullest(job(1)).optimizer // 2
    assert fullest(job(1, optimizer_offload=1.0)).optimizer == 0
    assert fullest(job(1, optimizer_offload=1.0)).weights == fullest(job(1)).weights


def test_each_kind_of_parallelism_saves_what_it_splits() -> None:
    one = fullest(job(1))
    data = fullest(on(job(1), data=4))
    assert (data.weights, data.gradients, data.optimizer) == (one.weights, one.gradients, one.optimizer // 4)
    assert fullest(on(job(1, distributed_optimizer=False), data=4)).optimizer == one.optimizer
    tensor = fullest(on(job(1), tensor=4))
    assert tensor.weights == pytest.approx(one.weights / 4, rel=0.01)
    assert tensor.logits == pytest.approx(one.logits / 4)
    both = fullest(on(job(1), tensor=4, sequence_parallel=True))
    assert both.activations == pytest.approx(one.activations / 4)
    assert both.activations < tensor.activations < one.activations
    context = fullest(on(job(1), context=2))
    assert context.activations == pytest.approx(one.activations / 2, rel=0.001)
    assert context.optimizer == one.optimizer // 2


def test_the_first_pipeline_stage_keeps_the_most_micro_batches() -> None:
    stages = [memory.usage_of(on(job(1, micro_batches=16), pipeline=4), stage) for stage in range(4)]
    layers = [stage.activations for stage in stages]
    assert layers[0] > layers[1] > layers[2] > layers[3]
    assert layers[0] == pytest.approx(fullest(job(1)).activations, rel=0.02)  # a quarter of the layers, 4 in flight
    few = memory.usage_of(on(job(1, micro_batches=1), pipeline=4), 0)
    assert few.activations < stages[0].activations / 3
    virtual = memory.usage_of(on(job(1, micro_batches=16), pipeline=4, virtual_pipeline=2), 0)
    assert stages[0].activations < virtual.activations < 1.5 * stages[0].activations


def test_of_unlike_stages_each_has_its_own_layers() -> None:
    """`block` recomputes the first layer of each chunk that has one."""
    uneven = replace(on(job(1, micro_batches=16), pipeline=2, virtual_pipeline=8), stages=(9, 7))
    even = replace(uneven, stages=(8, 8))
    assert memory.usage_of(uneven, 0).weights > memory.usage_of(even, 0).weights
    assert memory.usage_of(uneven, 1).weights < memory.usage_of(even, 1).weights
    # of the first chunk, which has two layers, four micro batches are under way when none of the last is: 9 layers keep 2 x 17 + 4 - 17
    kept = [memory.usage_of(one, 0).activations for one in (uneven, even)]
    assert kept[0] / kept[1] == pytest.approx((17 + 4) / 17, rel=0.01)
    block = {"recompute_granularity": "full", "recompute_method": "block", "recompute_layers": 1}
    assert [memory.recomputed_of(replace(uneven, **block), stage) for stage in (0, 1)] == [8, 7]


def test_recompute_keeps_less_the_more_it_recomputes() -> None:
    def kept(**change: Any) -> int:
        return fullest(job(1, recompute_granularity="full", **change)).activations

    plain = fullest(job(1)).activations
    some = kept(recompute_method="block", recompute_layers=4)
    all_ = kept(recompute_method="block", recompute_layers=16)
    assert plain > some > all_
    assert kept(recompute_method="uniform", recompute_layers=1) == all_
    assert kept(recompute_method="uniform", recompute_layers=4) < all_


def test_mixtures_split_their_experts() -> None:
    recipe = catalog.find("mixtral_8x7b")

    def usage(expert: int, ranks: int) -> memory.Usage:
        change = {"model_class": recipe.model_class, "sizes": recipe.sizes, "vocabulary": 32_000, "stages": (32,)}
        layout = Layout(1, ranks, 1, 1, 1, 1, expert, False)
        return fullest(Job(**job(1).__dict__ | change | {"layout": layout}))

    one, eight = usage(1, 8), usage(8, 8)
    model = parameters.count("gpt", recipe.model_class, recipe.sizes, 32_000)
    experts = sum(layer.expert for layer in model.layers)
    assert one.parameters == model.total
    assert eight.parameters == model.total - experts + experts // 8


def test_precisions() -> None:
    count = parameters.count("gpt", "LlamaModel", catalog.find("llama32_1b").sizes, 128_256).total
    assert optimizer_states.checkpoint_bytes(memory.model_of(job(1))) == 14 * count
    full = fullest(job(1, precision="32"))
    assert (full.weights, full.gradients, full.optimizer) == (4 * count, 4 * count, 8 * count)
    mixed = fullest(job(1, fp32_grad_reduce=False))
    assert (mixed.weights, mixed.gradients, mixed.optimizer) == (2 * count, 2 * count, 12 * count)
    assert fullest(job(1, sgd=True)).optimizer == 8 * count
