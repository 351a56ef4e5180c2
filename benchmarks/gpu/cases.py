#!/usr/bin/env python3
"""The cases of docs/performance.md, docs/memory.md and docs/gpu.md for run_cases.py, in parts of under ten minutes on an H100.

    python benchmarks/gpu/cases.py FOLDER        writes FOLDER/0.json … 4.json

0 tests/e2e/gpu, with a small vocabulary (--data with tokenizer/, dataset/ and dense/, a checkpoint of multi_gpu_models.py); 1 the command itself; 2 llama32_1b against stock and transformers, and what each setting brings; 3 other models and fp8
recipes; 4 losses over hundreds of steps, memory, the largest models. In each part what matters most comes first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

Case = dict[str, Any]
ONE_B = "llama32_1b"
DATA = ["--hf-model-id", "{tokenizer}", "--dataset-dir", "{data}", "--seed", "1234"]
UNIFORM = "--recompute-granularity full --recompute-method uniform --recompute-num-layers"
BLOCK = "--recompute-granularity full --recompute-method block --recompute-num-layers"


def ours(name: str, model: str = ONE_B, flags: str = "", batch: int = 16, steps: int = 8, **more: Any) -> Case:
    """Our command with no tuning flags but those named; the micro batch is the memory plan's."""
    words = ["--model-name", model, *DATA, "-E", name, "-gbs", str(batch), "--max-steps", str(steps)]
    return {"name": name, "flags": [*words, "--val-check-interval", str(steps), *flags.split()], **more}


def stock(name: str, model: str = ONE_B, micro: int = 1, batch: int = 16, steps: int = 8, **more: Any) -> Case:
    """NeMo's recipe as it is."""
    sizes = {"micro_batch": micro, "global_batch": batch, "vocabulary": 128256, "steps": steps}
    return {"name": name, "kind": "stock", "model": model, **sizes, **more}


def memory(name: str, flags: str, model: str = ONE_B, batch: int = 4, **more: Any) -> Case:
    """Three steps: a run's memory is that of its second step."""
    return ours(name, model, flags, batch, steps=3, seconds=20, timeout=90, **more)


def tests_part() -> list[Case]:
    from tests.e2e.gpu.cases import all_cases, training

    same = (
        "-mbs 2 --seq-length 256 --lr 1e-3 --save-every 30 --nemo-model {model}"  # as multi_gpu.py's one rank on a CPU
    )
    latent = ["-mbs", "4", "--nemo-model", "{latent}", "-EP", "1", "--lr-schedule", "constant", "--lr", "1e-3"]
    whole = training("latent", latent, "deepseek_v3")
    again = training("latent_again", latent, "deepseek_v3", again="latent", forget=12)
    branch = ["--decay-from", "{out}/latent/run/checkpoints/step_00000006", "--decay-steps", "6"]
    decayed = training("latent_decayed", [*latent, *branch], "deepseek_v3", after="latent_again")
    weights = {**ours("from_weights", "llama_tiny", same, steps=30), "small": True}
    return [*all_cases(), weights, whole, again, decayed]


def first_part() -> list[Case]:
    command = ["-M", ONE_B, *DATA, "-E", "command", "-gbs", "16", "--max-steps", "8", "--val-check-interval", "8"]
    long = {"seconds": 60, "timeout": 300}  # its checkpoint of 16 GiB can take 100 s
    saves = "-mbs 4 --save-every 6 --keep-checkpoints 2"  # with --out in memory, beside two older ones
    one = ours("saves", flags=saves, batch=16, steps=12, save=True, **long)
    two = ours("saves", flags=saves, batch=32, steps=12, save=True, ranks=2, **long)
    return [
        {"name": "command", "kind": "launch", "flags": command, **long},
        {"name": "command_again", "kind": "launch", "flags": command, **long},  # with compiled kernels on disk
        one,
        {**one, "name": "saves_again", "again": "saves", "forget": 12},
        {**one, "name": "saves_plain", "plain_save": True},
        {**two, "name": "saves_dp2"},
        {**two, "name": "saves_dp2_plain", "plain_save": True},
    ]


def second_part() -> list[Case]:
    graphs = {
        "model.config.cuda_graph_impl": "local",
        "model.config.use_te_rng_tracker": True,
        "trainer.strategy.use_te_rng_tracker": True,
    }
    return [
        ours("ours_bf16", first=True),
        stock("stock_mbs1"),
        ours("ours_fp8", flags="--fp8"),
        ours("plain_attention", plain_attention=True),
        ours("fp8_plain_attention", flags="--fp8", plain_attention=True),
        ours("plain_elementwise", plain_elementwise=True),
        {"name": "peer_mbs2", "kind": "peer", "micro_batch": 2, "global_batch": 16, "steps": 7, "seconds": 60},
        stock("stock_mbs2", micro=2),
        ours("fp8_plain_elementwise", flags="--fp8", plain_elementwise=True),
        ours("ours_bf16_second"),  # how far two runs of one thing lie apart
        stock("stock_mbs1_second"),
        ours("no_guard", no_guard=True),
        ours("graphs", set=graphs),
        ours("expandable", env={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        ours("te_activation", set={"model.config.use_te_activation_func": True}),
        ours("plain_head", plain_head=True),
        ours("bf16_gradients", set={"trainer.plugins.grad_reduce_in_fp32": False}),
        ours("connections", env={"CUDA_DEVICE_MAX_CONNECTIONS": "8"}),
        ours("profile", profile=True, steps=10),
        ours("batch64", batch=64, steps=7, timeout=150, seconds=90),
        stock("stock_batch64", batch=64, steps=6, timeout=150, seconds=100),
    ]


def third_part() -> list[Case]:
    small = "--seq-length 2048 -mbs 4"  # a step of which the host can take longer than the GPU
    in_parts = {"model.config.bias_activation_fusion": False, "model.config.apply_rope_fusion": False}
    return [
        ours("qwen25_500m", "qwen25_500m", batch=32),
        stock("qwen25_500m_stock", "qwen25_500m", micro=2, batch=32),
        ours("qwen25_1p5b", "qwen25_1p5b", batch=32),
        stock("qwen25_1p5b_stock", "qwen25_1p5b", micro=1, batch=32),
        ours("llama32_3b_block8", "llama32_3b", f"-mbs 1 {BLOCK} 8", batch=8, steps=7),
        ours("llama32_3b_plain_attention", "llama32_3b", f"-mbs 1 {BLOCK} 8", batch=8, steps=7, plain_attention=True),
        ours("qwen25_1p5b_plain_attention", "qwen25_1p5b", batch=32, plain_attention=True),
        ours("qwen25_500m_parts", "qwen25_500m", batch=32, set=in_parts),
        {"name": "kernels_128", "kind": "check", "head": 128},
        ours("llama32_3b_plain", "llama32_3b", "-mbs 1", batch=8, steps=7),
        stock("llama32_3b_stock", "llama32_3b", batch=8, steps=6),
        ours("fp8_small", flags=f"--fp8 {small}", batch=8, steps=20),
        ours("bf16_small", flags=small, batch=8, steps=20),
        ours("tiny", "llama_tiny", batch=256, steps=20),
        stock("tiny_stock", "llama_tiny", micro=1, batch=256, steps=8),
        stock("tiny_stock_mbs64", "llama_tiny", micro=64, batch=256, steps=20),
        ours("fp8_tensorwise", flags="--fp8 --fp8-recipe tensorwise"),
        ours("fp8_blockwise", flags="--fp8 --fp8-recipe blockwise"),
        ours("fp8_attention", flags="--fp8", set={"trainer.plugins.fp8_dot_product_attention": True}),
        ours("fp8_profile", flags="--fp8", profile=True, steps=10),
        ours("fp8_output_layer", flags="--fp8 --fp8-output-layer"),
        ours("fp8_output_layer_plain_casts", flags="--fp8 --fp8-output-layer", plain_casts=True),
        ours("fp8_output_layer_profile", flags="--fp8 --fp8-output-layer", profile=True, steps=10),
        ours("llama32_3b_uniform", "llama32_3b", f"{UNIFORM} 1", batch=16, steps=6),
        ours("llama32_3b_fp8", "llama32_3b", f"-mbs 1 --fp8 {BLOCK} 8", batch=8, steps=7),
    ]


def fourth_part() -> list[Case]:
    # a warm-up long enough that two runs don't part in their first steps by themselves
    short = "--seq-length 1024 -mbs 8 --lr 3e-4 --warmup-steps 100"
    long = {"timeout": 260, "seconds": 120}
    return [
        ours("losses_bf16", flags=short, batch=8, steps=500, **long),
        ours("losses_fp8", flags=f"{short} --fp8", batch=8, steps=500, **long),
        ours("losses_fp8_output_layer", flags=f"{short} --fp8 --fp8-output-layer", batch=8, steps=500, **long),
        ours("losses_bf16_second", flags=short, batch=8, steps=500, **long),  # what the order of additions does alone
        ours("moments_fp32", flags="-mbs 2", steps=20, timeout=120, seconds=40),
        ours("moments_bf16", flags="-mbs 2 --optimizer-precision bf16", steps=20, timeout=120, seconds=40),
        ours("losses_stock", flags=short, batch=8, steps=200, stock=True, timeout=150, seconds=80),
        memory("m_optim1", "-mbs 2 --optim-cpu-offloading"),
        memory("m_optim05", "-mbs 2 --optim-cpu-offloading --optim-cpu-offloading-frac 0.5"),
        memory("m_act8", "-mbs 2 --cpu-offloading --cpu-offloading-layers 8 --cpu-offloading-activations"),
        memory("m_uniform", f"-mbs 4 {UNIFORM} 1", batch=8),
        memory("m_block8", f"-mbs 2 {BLOCK} 8"),
        memory("m_selective", "-mbs 2 --recompute-granularity selective"),
        memory("largest_offload", f"-mbs 1 --seq-length 2048 --optim-cpu-offloading {UNIFORM} 1", "nemotron3_8b", 2),
        memory("largest_recompute", f"-mbs 1 --seq-length 2048 {UNIFORM} 1", "qwen3_4b", 2),
        memory("largest_plain", "-mbs 1 --seq-length 2048", "llama32_3b", 2),
        memory("m_plain", "-mbs 2"),
        memory("m_fp32", "-mbs 1 --precision 32 --seq-length 2048", batch=2),
        memory("m_1", "-mbs 1", batch=2),
        memory("m_fp8", "-mbs 2 --fp8"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((tests_part(), first_part(), second_part(), third_part(), fourth_part())):
        (folder / f"{number}.json").write_text(json.dumps(part, indent=1))


if __name__ == "__main__":
    main()
