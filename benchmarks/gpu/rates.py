#!/usr/bin/env python3
"""What one GPU, or the GPUs of one machine, do a second: the numbers behind the plan's step time (benchmarks/plan_time.md).

    python benchmarks/gpu/rates.py OUT.json                                          one GPU: some 60 s
    python -m torch.distributed.run --standalone --nproc-per-node 4 benchmarks/gpu/rates.py OUT.json     transfers too

Each entry is repeated for a tenth of a second or more on random numbers, the card warm: its power is part of the number.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 0.12  # that an entry is repeated for
TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
# (columns out, columns in) of products: of QKV, attention's output, the two of the MLP, and the output matrix
WEIGHTS = {
    "llama32_1b": [(3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192), (128256, 2048)],
    "llama32_1b, TP 2": [(1536, 2048), (2048, 1024), (8192, 2048), (2048, 4096)],
    "qwen25_500m": [(1152, 896), (896, 896), (9728, 896), (896, 4864), (151936, 896)],
    "qwen25_1p5b": [(2048, 1536), (1536, 1536), (17920, 1536), (1536, 8960)],
    "llama32_3b": [(5120, 3072), (3072, 3072), (16384, 3072), (3072, 8192)],
    "llama31_8b": [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)],
    "llama31_8b, TP 4": [(1536, 4096), (4096, 1024), (7168, 4096), (4096, 3584)],
}
# (width of a head, heads, groups of keys and values, sequence length, sequences)
ATTENTION = [
    (width, heads, heads // 4, length, max(1, 16384 // length))
    for width in (64, 128)
    for heads in (8, 32)
    for length in (1024, 2048, 4096, 8192, 16384)
]
MEGABYTES = (0.125, 0.5, 2, 8, 32, 128, 512)


def seconds(work: Callable[[], Any]) -> float:
    """Time of one call, the GPU's."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    times = max(3, int(SECONDS / max(1e-6, begin.elapsed_time(end) / 1000)))
    times = min(times, 2000)
    if dist.is_initialized():  # all ranks the same number of times
        shared = torch.tensor(times, device="cuda")
        dist.broadcast(shared, 0)
        times = int(shared)
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16).to(dtype)


def products() -> list[dict[str, Any]]:
    """TFLOP/s of y = x W (forward), dx = dy W' (data) and dW = dy' x (weight), by tokens and weight."""
    rows = []
    for model, weights in WEIGHTS.items():
        for out, into in weights:
            for tokens in TOKENS:
                if tokens * out > 3e9:
                    continue
                x, w, above = random(tokens, into), random(out, into), random(tokens, out)
                work = 2.0 * tokens * out * into
                row = {"model": model, "out": out, "in": into, "tokens": tokens}
                row["forward"] = work / seconds(lambda x=x, w=w: x @ w.t()) / 1e12
                row["data"] = work / seconds(lambda d=above, w=w: d @ w) / 1e12
                row["weight"] = work / seconds(lambda d=above, x=x: d.t() @ x) / 1e12
                row["fp8"] = fp8_rate(tokens, out, into, work)
                rows.append(row)
                print(row, flush=True)
    return rows


def fp8_rate(tokens: int, out: int, into: int, work: float) -> float | None:
    """TFLOP/s of the forward product in fp8, its casts left out."""
    x, w = random(tokens, into, dtype=torch.float8_e4m3fn), random(out, into, dtype=torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    try:
        once = lambda: torch._scaled_mm(x, w.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)  # noqa: E731
        return work / seconds(once) / 1e12
    except RuntimeError as error:
        print(f"fp8 {tokens} x {out} x {into}: {error}", flush=True)
        return None


def attention() -> list[dict[str, Any]]:
    """TFLOP/s of causal attention forward and backward, counted as 2 and 4 x heads x width x length a token."""
    rows = []
    for width, heads, groups, length, batch in ATTENTION:
        row = {"width": width, "heads": heads, "groups": groups, "length": length, "sequences": batch}
        work = 2.0 * heads * width * length * length * batch
        for name, kernel in (("flash_attn_4", flash_attn_4), ("cudnn", cudnn)):
            q = random(length, batch, heads, width).requires_grad_()
            k, v = (random(length, batch, groups, width).requires_grad_() for _ in range(2))
            try:
                call = kernel(heads, groups, width)
                above = torch.randn_like(call(q, k, v))
                forward = seconds(lambda call=call, q=q, k=k, v=v: call(q, k, v))
                both = seconds(
                    lambda call=call, q=q, k=k, v=v, a=above: torch.autograd.grad(call(q, k, v), (q, k, v), a)
                )
            except (RuntimeError, ImportError, AssertionError) as error:
                row[name] = str(error)[:200]
                continue
            row[name] = {"forward": work / forward / 1e12, "backward": 2 * work / (both - forward) / 1e12}
        rows.append(row)
        print(row, flush=True)
    return rows


def flash_attn_4(heads: int, groups: int, width: int) -> Callable[..., torch.Tensor]:
    try:
        from nemo_workflow.backends.gpu.attention import Attention
    except ImportError:
        from nemo_workflow.backends.gpu.attention import Attention
    return lambda q, k, v: Attention.apply(q, k, v, width**-0.5)


def cudnn(heads: int, groups: int, width: int) -> Callable[..., torch.Tensor]:
    from transformer_engine.pytorch import DotProductAttention

    return DotProductAttention(
        heads, width, num_gqa_groups=groups, attn_mask_type="causal", qkv_format="sbhd", attention_dropout=0.0
    ).cuda()


def memory() -> dict[str, float]:
    """GB/s of reading and writing at once, and of copies from and to pinned host memory."""
    a, b = random(2**29), random(2**29)
    host = torch.empty(2**28, dtype=torch.bfloat16, pin_memory=True)
    part = a[: 2**28]
    size = a.numel() * 2
    return {
        "copy": 2 * size / seconds(lambda: b.copy_(a)) / 1e9,
        "add": 3 * size / seconds(lambda: torch.add(a, b, out=b)) / 1e9,
        "to_host": size / 2 / seconds(lambda: host.copy_(part, non_blocking=True)) / 1e9,
        "from_host": size / 2 / seconds(lambda: part.copy_(host, non_blocking=True)) / 1e9,
    }


def launches() -> dict[str, float]:
    """Microseconds that the host takes to start a small kernel, alone and through autograd with a linear layer."""
    x = random(16, 64)
    layer = torch.nn.Linear(64, 64, dtype=torch.bfloat16, device="cuda")

    def host(work: Callable[[], Any], times: int = 2000) -> float:
        work()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            work()
        spent = time.perf_counter() - begin
        torch.cuda.synchronize()
        return spent / times * 1e6

    return {"add": host(lambda: x + x), "linear forward and backward": host(lambda: layer(x).sum().backward())}


def transfers() -> list[dict[str, Any]]:
    """Seconds of each collective by bytes of the whole tensor (a rank's own times the ranks for gather and scatter)."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    rows = []
    for megabytes in MEGABYTES:
        count = int(megabytes * 2**20 / 2) // ranks * ranks
        whole, part = random(count), random(count // ranks)
        other = torch.empty_like(whole)
        calls = {
            "all_reduce": lambda whole=whole: dist.all_reduce(whole),
            "all_gather": lambda whole=whole, part=part: dist.all_gather_into_tensor(whole, part),
            "reduce_scatter": lambda whole=whole, part=part: dist.reduce_scatter_tensor(part, whole),
            "all_to_all": lambda whole=whole, other=other: dist.all_to_all_single(other, whole),
            "ring": lambda whole=whole, other=other: [
                request.wait()
                for request in dist.batch_isend_irecv(
                    [
                        dist.P2POp(dist.isend, whole, (rank + 1) % ranks),
                        dist.P2POp(dist.irecv, other, (rank - 1) % ranks),
                    ]
                )
            ],
        }
        for name, call in calls.items():
            row = {"what": name, "bytes": count * 2, "ranks": ranks, "seconds": seconds(call)}
            rows.append(row)
            if rank == 0:
                print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl")
        found["transfers"] = transfers()
        dist.destroy_process_group()
    else:
        for part in (memory, launches, attention, products):
            found[part.__name__] = part()
            options.out.write_text(json.dumps(found, indent=1))
    if int(os.environ.get("RANK", "0")) == 0:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
