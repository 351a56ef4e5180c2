"""gpu_backend's kernels against float64 and against Transformer Engine's, with times. A case of run_cases.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    folder = Path(sys.argv[2])
    sys.stdin.readline()
    import torch
    from transformer_engine.pytorch.cross_entropy import parallel_cross_entropy
    from triton.testing import do_bench

    from nemo_workflow.gpu_backend import output_layer, weight_gradient

    weight_gradient.install()
    import fused_weight_gradient_mlp_cuda

    tokens, width, vocabulary = 16384, 2048, 128256
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(vocabulary, width, device="cuda", dtype=torch.bfloat16) * 0.02
    labels = torch.randint(0, vocabulary, (tokens,), device="cuda")
    logits = hidden @ weight.t()
    found: dict[str, Any] = {}
    gigabytes = logits.numel() * 2 / 1e9

    for block, warps in ((16384, 32), (8192, 32), (8192, 16), (4096, 16), (4096, 8), (32768, 32)):
        output_layer.BLOCK, output_layer.WARPS = block, warps
        found[f"ours ms, block {block} warps {warps}"] = do_bench(
            lambda: output_layer.loss_and_gradient(logits, labels), warmup=30, rep=150, return_mode="median"
        )
    output_layer.BLOCK, output_layer.WARPS = 16384, 32
    shaped = logits.view(tokens, 1, vocabulary).detach().requires_grad_()
    found["te forward ms"] = do_bench(
        lambda: parallel_cross_entropy(shaped, labels.view(tokens, 1)), warmup=30, rep=150, return_mode="median"
    )
    found["floor ms (read + write at 3.0 TB/s)"] = 2 * gigabytes / 3.0

    small = slice(0, 512)
    labels[3] = -100
    x = hidden[small].double().requires_grad_()
    w = weight.double().requires_grad_()
    scale = torch.rand(512, device="cuda")
    reference = torch.nn.functional.cross_entropy(x @ w.t(), labels[small], reduction="none")
    (reference * scale).sum().backward()
    mine = hidden[small].clone().requires_grad_()
    own = weight.clone().requires_grad_()
    losses = output_layer._OutputLoss.apply(mine, own, labels[small], False)
    (losses * scale).sum().backward()
    for name, got, wanted in (
        ("loss", losses, reference), ("hidden gradient", mine.grad, x.grad), ("weight gradient", own.grad, w.grad),
    ):  # fmt: skip
        found[f"{name} error"] = float((got.double() - wanted).norm() / wanted.norm())

    main_grad = torch.randn(256, 512, device="cuda")
    a = torch.randn(1024, 512, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(1024, 256, device="cuda", dtype=torch.bfloat16)
    wanted = main_grad.double() + b.double().t() @ a.double()
    fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(a, b, main_grad)
    found["fused weight gradient error"] = float((main_grad.double() - wanted).norm() / wanted.norm())
    print(json.dumps(found, indent=1))
    (folder / "result.json").write_text(json.dumps({"kernels": found, "device": torch.cuda.get_device_name()}))


if __name__ == "__main__":
    main()
