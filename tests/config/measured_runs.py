"""Runs on cards whose speed was written down: docs/performance.md, docs/memory.md and benchmarks/multi_gpu.md.

Where a page gives several runs of one thing, a row is their mean. The page's rows of other programs (transformers) are not ours to plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nemo_workflow.config.memory import Job
from nemo_workflow.config.parallelism import Layout
from nemo_workflow.models import catalog, parameters


@dataclass(frozen=True)
class Measured:
    """Tokens a second per GPU of one run. `kernels`: ours with FlashAttention 4, ours without it ("cudnn"), or NeMo's recipe ("stock")."""

    what: str
    gpu: str
    job: Job
    tokens: float
    kernels: str = "ours"
    in_parts: bool = False
    tensor_beside: bool = False


def job(model: str, micro_batch: int, batch: int, seq: int = 8192, words: int = 128_256, **change: Any) -> Job:
    """`batch` sequences a step; sizes of the layout by their names in `change`, the rest are Job's."""
    recipe = catalog.find(model)
    shape = {"tensor": 1, "pipeline": 1, "virtual_pipeline": 1, "context": 1, "expert": 1, "sequence_parallel": False}
    shape |= {name: change.pop(name) for name in list(change) if name in shape}
    data = change.pop("data", 1)
    ranks = shape["tensor"] * shape["pipeline"] * shape["context"] * data
    stages = shape["pipeline"]
    return Job(
        family=recipe.family,
        model_class=recipe.model_class,
        sizes=recipe.sizes,
        vocabulary=parameters.padded_vocabulary(recipe.sizes, words, shape["tensor"]),
        layout=Layout(nodes=max(1, ranks // 8), ranks_per_node=min(8, ranks), **shape),
        seq_length=seq,
        micro_batch=micro_batch,
        micro_batches=batch // (micro_batch * data),
        stages=(recipe.sizes["num_layers"] // stages,) * stages,
        **change,
    )


ONE_B, EIGHT_B = "llama32_1b", "llama31_8b"
NATIVE = {"cross_entropy": "native"}
BLOCK_8 = {"recompute_granularity": "full", "recompute_method": "block", "recompute_layers": 8}
EVERY_LAYER = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_layers": 1}


def _block(layers: int) -> dict[str, Any]:
    return {**BLOCK_8, "recompute_layers": layers}


BLOCK_7, BLOCK_21 = _block(7), _block(21)
BLOCK_5 = _block(5)
SEVENTY_B = {"tensor": 4, "sequence_parallel": True, "pipeline": 8, "virtual_pipeline": 5, "data": 2, "fp8": True}

RUNS = (
    # docs/performance.md, one GPU, llama32_1b
    Measured("1B", "h100", job(ONE_B, 4, 16), 61_700),
    Measured("1B, fp8", "h100", job(ONE_B, 4, 16, fp8=True), 71_954),
    Measured("1B, cuDNN", "h100", job(ONE_B, 4, 16), 59_118, "cudnn"),
    Measured("1B, stock", "h100", job(ONE_B, 1, 16, **NATIVE), 48_650, "stock"),
    Measured("1B, cuDNN, card B", "h100", job(ONE_B, 4, 16), 57_862, "cudnn"),
    Measured("1B, fp8, cuDNN, card B", "h100", job(ONE_B, 4, 16, fp8=True), 66_810, "cudnn"),
    Measured("1B, stock, micro batch 2, card B", "h100", job(ONE_B, 2, 16, **NATIVE), 49_934, "stock"),
    Measured("1B", "h200", job(ONE_B, 8, 16), 61_100),
    Measured("1B, fp8", "h200", job(ONE_B, 8, 16, fp8=True), 73_522),
    Measured("1B, cuDNN", "h200", job(ONE_B, 8, 16), 58_573, "cudnn"),
    Measured("1B, stock", "h200", job(ONE_B, 1, 16, **NATIVE), 50_264, "stock"),
    Measured("1B, 4 x 2,048 tokens", "h100", job(ONE_B, 4, 8, 2048), 53_198),
    Measured("1B, fp8, 4 x 2,048 tokens", "h100", job(ONE_B, 4, 8, 2048, fp8=True), 38_000),
    Measured("1B, every layer recomputed", "h200", job(ONE_B, 4, 8, **EVERY_LAYER), 44_680),
    Measured("1B, 8 layers offloaded", "h200", job(ONE_B, 2, 4, offloaded_layers=8), 31_793),
    # other models
    Measured("Qwen 0.5B", "h200", job("qwen25_500m", 16, 32, 4096), 134_700),
    Measured("Qwen 0.5B, in parts", "h200", job("qwen25_500m", 16, 32, 4096), 119_032, in_parts=True),
    Measured("Qwen 0.5B, in parts, cuDNN", "h100", job("qwen25_500m", 8, 32, 4096), 104_678, "cudnn", in_parts=True),
    Measured("Qwen 0.5B, stock", "h200", job("qwen25_500m", 2, 32, 4096, **NATIVE), 77_488, "stock", in_parts=True),
    Measured("Qwen 0.5B, stock", "h100", job("qwen25_500m", 2, 32, 4096, **NATIVE), 72_414, "stock", in_parts=True),
    Measured("Qwen 1.5B", "h200", job("qwen25_1p5b", 8, 32, 4096), 54_171),
    Measured("Qwen 1.5B, cuDNN", "h200", job("qwen25_1p5b", 8, 32, 4096), 53_144, "cudnn"),
    Measured("Qwen 1.5B, stock", "h100", job("qwen25_1p5b", 1, 32, 4096, **NATIVE), 29_447, "stock", in_parts=True),
    Measured("3B, 8 layers recomputed", "h200", job("llama32_3b", 1, 8, **BLOCK_8), 21_818),
    Measured("3B, 8 layers recomputed, cuDNN", "h200", job("llama32_3b", 1, 8, **BLOCK_8), 21_216, "cudnn"),
    Measured("3B, 8 layers recomputed, cuDNN", "h100", job("llama32_3b", 1, 8, **BLOCK_8), 20_888, "cudnn"),
    Measured("tiny", "h200", job("llama_tiny", 256, 256, 256), 1_043_924),
    Measured("tiny, stock", "h200", job("llama_tiny", 1, 256, 256, **NATIVE), 7_881, "stock"),
    Measured("tiny, stock, micro batch 64", "h100", job("llama_tiny", 64, 256, 256, **NATIVE), 328_815, "stock"),
    # benchmarks/multi_gpu.md, two H200, llama32_1b
    Measured("1B, DP 2", "h200", job(ONE_B, 8, 32, data=2), 59_602),
    Measured("1B, DP 2, fp8", "h200", job(ONE_B, 8, 32, data=2, fp8=True), 73_242),
    Measured("1B, CP 2", "h200", job(ONE_B, 16, 32, context=2), 54_197),
    Measured("1B, TP 2", "h200", job(ONE_B, 8, 32, tensor=2, sequence_parallel=True), 52_220),
    Measured("1B, PP 2, VPP 2", "h200", job(ONE_B, 4, 32, pipeline=2, virtual_pipeline=2), 50_043),
    Measured("1B, PP 2", "h200", job(ONE_B, 4, 32, pipeline=2), 48_753),
    Measured("1B, DP 2, cuDNN", "h100", job(ONE_B, 4, 32, data=2), 58_001, "cudnn"),
    Measured("1B, DP 2, fp8, cuDNN", "h100", job(ONE_B, 4, 32, data=2, fp8=True), 67_920, "cudnn"),
    Measured("1B, TP 2, cuDNN", "h100", job(ONE_B, 8, 32, tensor=2, sequence_parallel=True), 49_176, "cudnn"),
    # four H200
    Measured("1B, four cards' mean", "h200", job(ONE_B, 8, 16), 61_739),
    Measured("1B, fp8, four cards' mean", "h200", job(ONE_B, 8, 16, fp8=True), 74_534),
    Measured("1B, DP 2, again", "h200", job(ONE_B, 8, 32, data=2), 60_118),
    Measured("1B, DP 2, fp8, again", "h200", job(ONE_B, 8, 32, data=2, fp8=True), 75_268),
    Measured("1B, DP 4", "h200", job(ONE_B, 8, 64, data=4), 60_234),
    Measured("1B, DP 4, fp8", "h200", job(ONE_B, 8, 64, data=4, fp8=True), 74_558),
    Measured("8B, DP 4", "h200", job(EIGHT_B, 1, 32, data=4), 11_506),
    Measured("8B, DP 4, fp8", "h200", job(EIGHT_B, 1, 32, data=4, fp8=True), 15_925),
    Measured("8B, TP 2, DP 2", "h200", job(EIGHT_B, 1, 32, tensor=2, sequence_parallel=True, data=2), 10_364),
    Measured("8B, PP 2, VPP 4, CP 2", "h200", job(EIGHT_B, 1, 32, pipeline=2, virtual_pipeline=4, context=2), 9_984),
    Measured(
        "8B, PP 2, VPP 4, CP 2, fp8",
        "h200",
        job(EIGHT_B, 1, 32, pipeline=2, virtual_pipeline=4, context=2, fp8=True),
        13_334,
    ),
    Measured("8B, CP 4", "h200", job(EIGHT_B, 1, 32, context=4), 5_729),
    Measured(
        "8B, CP 4, fp8, 3 layers recomputed",
        "h200",
        job(
            EIGHT_B,
            1,
            32,
            context=4,
            fp8=True,
            recompute_granularity="full",
            recompute_method="block",
            recompute_layers=3,
        ),
        3_600,
    ),
    Measured("1B, fp8, output layer too", "h200", job(ONE_B, 8, 16, fp8=True, fp8_output_layer=True), 79_995),
)

# NVIDIA's tables: other kernels, tensor parallel transfers beside products, and layouts that are only known in part
PUBLISHED = (
    Measured("8B on 8", "h100", job(EIGHT_B, 1, 128, context=2, data=4), 10_153, "cudnn"),
    Measured(
        "8B on 8, fp8, 5 layers recomputed", "h100", job(EIGHT_B, 1, 128, data=8, fp8=True, **BLOCK_5), 14_451, "cudnn"
    ),
    Measured("70B on 64, fp8", "h100", job("llama31_70b", 1, 128, **SEVENTY_B), 1_664, "cudnn", tensor_beside=True),
)

# planned before they were run: what --suggest called best or second best, on H200s (benchmarks/plan_time.md)
BLIND = (
    Measured("1B, micro batch 8", "h200", job(ONE_B, 8, 16), 60_679),
    Measured("1B, micro batch 4", "h200", job(ONE_B, 4, 16), 60_777),
    Measured("3B, micro batch 2", "h200", job("llama32_3b", 2, 8), 24_292),
    Measured("3B, micro batch 1", "h200", job("llama32_3b", 1, 8), 23_684),
    Measured("Qwen 1.5B, micro batch 8", "h200", job("qwen25_1p5b", 8, 32, 4096), 54_590),
    Measured("Qwen 1.5B, micro batch 4", "h200", job("qwen25_1p5b", 4, 32, 4096), 53_513),
    Measured("8B, DP 2", "h200", job(EIGHT_B, 1, 16, data=2), 11_452),
    Measured("1B, DP 2", "h200", job(ONE_B, 8, 32, data=2), 59_731),
    Measured("3B, DP 2", "h200", job("llama32_3b", 4, 16, data=2), 23_978),
    Measured("8B, DP 4", "h200", job(EIGHT_B, 1, 32, data=4), 11_456),
    Measured("1B, DP 4", "h200", job(ONE_B, 8, 64, data=4), 59_672),
    Measured("3B, DP 4", "h200", job("llama32_3b", 4, 32, data=4), 23_995),
    # the other places of its list on two H200, a later day and another machine
    Measured("1B, micro batch 8, again", "h200", job(ONE_B, 8, 16), 61_764),
    Measured("1B, micro batch 4, again", "h200", job(ONE_B, 4, 16), 61_882),
    Measured("1B, micro batch 2", "h200", job(ONE_B, 2, 16), 61_992),
    Measured("3B, micro batch 2, again", "h200", job("llama32_3b", 2, 8), 24_710),
    Measured("3B, micro batch 1, again", "h200", job("llama32_3b", 1, 8), 24_130),
    Measured("3B, micro batch 4, 7 layers recomputed", "h200", job("llama32_3b", 4, 8, **BLOCK_7), 23_036),
    Measured("3B, micro batch 8, 21 layers recomputed", "h200", job("llama32_3b", 8, 8, **BLOCK_21), 20_273),
    Measured("Qwen 1.5B, micro batch 8, again", "h200", job("qwen25_1p5b", 8, 32, 4096), 55_220),
    Measured("Qwen 1.5B, micro batch 4, again", "h200", job("qwen25_1p5b", 4, 32, 4096), 54_095),
    Measured("8B, DP 2, again", "h200", job(EIGHT_B, 1, 16, data=2), 11_641),
    Measured("8B, PP 2, VPP 16", "h200", job(EIGHT_B, 1, 16, pipeline=2, virtual_pipeline=16), 10_843),
    Measured("8B, CP 2", "h200", job(EIGHT_B, 2, 16, context=2), 10_856),
    Measured("8B, PP 2, VPP 8", "h200", job(EIGHT_B, 1, 16, pipeline=2, virtual_pipeline=8), 10_818),
    Measured("8B, PP 2, VPP 4", "h200", job(EIGHT_B, 1, 16, pipeline=2, virtual_pipeline=4), 10_805),
    Measured("1B, DP 2, again", "h200", job(ONE_B, 8, 32, data=2), 60_912),
    Measured("1B, DP 2, micro batch 4", "h200", job(ONE_B, 4, 32, data=2), 61_678),
    Measured("1B, DP 2, micro batch 2", "h200", job(ONE_B, 2, 32, data=2), 61_705),
    Measured("1B, DP 2, micro batch 1", "h200", job(ONE_B, 1, 32, data=2), 60_391),
    Measured("1B, CP 2", "h200", job(ONE_B, 16, 32, context=2), 55_621),
    Measured("3B, DP 2, again", "h200", job("llama32_3b", 4, 16, data=2), 24_317),
    Measured("3B, DP 2, micro batch 2", "h200", job("llama32_3b", 2, 16, data=2), 24_327),
    Measured("3B, CP 2", "h200", job("llama32_3b", 8, 16, context=2), 22_546),
    Measured("Qwen 1.5B, DP 2", "h200", job("qwen25_1p5b", 8, 64, 4096, data=2), 54_864),
    Measured("Qwen 1.5B, DP 2, micro batch 4", "h200", job("qwen25_1p5b", 4, 64, 4096, data=2), 54_124),
    Measured("Qwen 1.5B, CP 2", "h200", job("qwen25_1p5b", 16, 64, 4096, context=2), 50_841),
)

# the lists of four H200s on an evening, half the batch a GPU; the first of each list as --layout auto
EVENING = (
    Measured("1B, 1 GPU, micro batch 8", "h200", job(ONE_B, 8, 8), 61_520),
    Measured("1B, 1 GPU, micro batch 4", "h200", job(ONE_B, 4, 8), 60_730),
    Measured("1B, 1 GPU, micro batch 2", "h200", job(ONE_B, 2, 8), 60_854),
    Measured("1B, 1 GPU, micro batch 1", "h200", job(ONE_B, 1, 8), 59_165),
    Measured("3B, 1 GPU, micro batch 2", "h200", job("llama32_3b", 2, 4), 23_825),
    Measured("3B, 1 GPU, micro batch 1", "h200", job("llama32_3b", 1, 4), 23_940),
    Measured("3B, 1 GPU, micro batch 4, 7 layers recomputed", "h200", job("llama32_3b", 4, 4, **_block(7)), 22_348),
    Measured("Qwen 1.5B, 1 GPU, micro batch 8", "h200", job("qwen25_1p5b", 8, 16, 4096), 55_095),
    Measured("Qwen 1.5B, 1 GPU, micro batch 4", "h200", job("qwen25_1p5b", 4, 16, 4096), 52_149),
    Measured("Qwen 1.5B, 1 GPU, micro batch 2", "h200", job("qwen25_1p5b", 2, 16, 4096), 50_688),
    Measured(
        "Qwen 1.5B, 1 GPU, micro batch 16, 14 layers recomputed",
        "h200",
        job("qwen25_1p5b", 16, 16, 4096, **_block(14)),
        48_188,
    ),
    Measured("8B, 2 GPUs, micro batch 1", "h200", job(EIGHT_B, 1, 8, data=2), 11_301),
    Measured(
        "8B, 2 GPUs, PP 2, VPP 16, micro batch 1", "h200", job(EIGHT_B, 1, 8, pipeline=2, virtual_pipeline=16), 10_650
    ),
    Measured("8B, 2 GPUs, CP 2, micro batch 2", "h200", job(EIGHT_B, 2, 8, context=2), 10_660),
    Measured(
        "8B, 2 GPUs, PP 2, VPP 8, micro batch 1", "h200", job(EIGHT_B, 1, 8, pipeline=2, virtual_pipeline=8), 10_676
    ),
    Measured(
        "8B, 2 GPUs, PP 2, VPP 4, micro batch 1", "h200", job(EIGHT_B, 1, 8, pipeline=2, virtual_pipeline=4), 10_538
    ),
    Measured("1B, 2 GPUs, micro batch 8", "h200", job(ONE_B, 8, 16, data=2), 59_935),
    Measured("1B, 2 GPUs, micro batch 4", "h200", job(ONE_B, 4, 16, data=2), 60_293),
    Measured("1B, 2 GPUs, micro batch 2", "h200", job(ONE_B, 2, 16, data=2), 60_455),
    Measured("1B, 2 GPUs, micro batch 1", "h200", job(ONE_B, 1, 16, data=2), 57_355),
    Measured("1B, 2 GPUs, CP 2, micro batch 16", "h200", job(ONE_B, 16, 16, context=2), 54_851),
    Measured("3B, 2 GPUs, micro batch 4", "h200", job("llama32_3b", 4, 8, data=2), 23_716),
    Measured("3B, 2 GPUs, micro batch 2", "h200", job("llama32_3b", 2, 8, data=2), 23_690),
    Measured("3B, 2 GPUs, micro batch 1", "h200", job("llama32_3b", 1, 8, data=2), 22_955),
    Measured("3B, 2 GPUs, CP 2, micro batch 8", "h200", job("llama32_3b", 8, 8, context=2), 22_307),
    Measured("3B, 2 GPUs, CP 2, micro batch 4", "h200", job("llama32_3b", 4, 8, context=2), 22_267),
    Measured("Qwen 1.5B, 2 GPUs, micro batch 8", "h200", job("qwen25_1p5b", 8, 32, 4096, data=2), 52_815),
    Measured("Qwen 1.5B, 2 GPUs, micro batch 4", "h200", job("qwen25_1p5b", 4, 32, 4096, data=2), 52_917),
    Measured("Qwen 1.5B, 2 GPUs, micro batch 2", "h200", job("qwen25_1p5b", 2, 32, 4096, data=2), 48_186),
    Measured("Qwen 1.5B, 2 GPUs, CP 2, micro batch 16", "h200", job("qwen25_1p5b", 16, 32, 4096, context=2), 49_910),
    Measured("Qwen 1.5B, 2 GPUs, CP 2, micro batch 8", "h200", job("qwen25_1p5b", 8, 32, 4096, context=2), 48_118),
    Measured("8B, 4 GPUs, micro batch 1", "h200", job(EIGHT_B, 1, 16, data=4), 11_328),
    Measured(
        "8B, 4 GPUs, PP 2, VPP 16, micro batch 2",
        "h200",
        job(EIGHT_B, 2, 16, data=2, pipeline=2, virtual_pipeline=16),
        10_407,
    ),
    Measured(
        "8B, 4 GPUs, micro batch 2, 8 layers recomputed", "h200", job(EIGHT_B, 2, 16, data=4, **_block(8)), 10_524
    ),
    Measured(
        "8B, 4 GPUs, PP 2, VPP 16, micro batch 1",
        "h200",
        job(EIGHT_B, 1, 16, data=2, pipeline=2, virtual_pipeline=16),
        10_645,
    ),
    Measured("1B, 4 GPUs, micro batch 8", "h200", job(ONE_B, 8, 32, data=4), 58_996),
    Measured("1B, 4 GPUs, micro batch 4", "h200", job(ONE_B, 4, 32, data=4), 60_303),
    Measured("1B, 4 GPUs, micro batch 2", "h200", job(ONE_B, 2, 32, data=4), 60_627),
    Measured("1B, 4 GPUs, micro batch 1", "h200", job(ONE_B, 1, 32, data=4), 58_442),
    Measured("3B, 4 GPUs, micro batch 4", "h200", job("llama32_3b", 4, 16, data=4), 23_558),
    Measured("3B, 4 GPUs, micro batch 2", "h200", job("llama32_3b", 2, 16, data=4), 23_623),
    Measured("3B, 4 GPUs, micro batch 1", "h200", job("llama32_3b", 1, 16, data=4), 23_310),
    Measured("3B, 4 GPUs, CP 2, micro batch 8", "h200", job("llama32_3b", 8, 16, data=2, context=2), 22_038),
    Measured("Qwen 1.5B, 4 GPUs, micro batch 8", "h200", job("qwen25_1p5b", 8, 64, 4096, data=4), 53_411),
    Measured("Qwen 1.5B, 4 GPUs, micro batch 4", "h200", job("qwen25_1p5b", 4, 64, 4096, data=4), 52_631),
    Measured("Qwen 1.5B, 4 GPUs, micro batch 2", "h200", job("qwen25_1p5b", 2, 64, 4096, data=4), 47_033),
    Measured(
        "Qwen 1.5B, 4 GPUs, CP 2, micro batch 16", "h200", job("qwen25_1p5b", 16, 64, 4096, data=2, context=2), 49_373
    ),
)

_UNEVEN = {"data": 2, "pipeline": 2, "virtual_pipeline": 8, "fp32_grad_reduce": False}
# stages of 17 and 15 layers, gradients reduced in bf16, on the same four
UNEVEN = (
    Measured("8B", "h200", replace(job(EIGHT_B, 1, 64, bf16_moments=True, **_UNEVEN), stages=(17, 15)), 11_457),
    Measured("8B, fp8", "h200", replace(job(EIGHT_B, 1, 64, fp8=True, **_UNEVEN), stages=(17, 15)), 15_868),
)
