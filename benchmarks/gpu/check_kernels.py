"""gpu_backend's kernels against float64, and their times against Transformer Engine's and PyTorch's. A case of run_cases.py,
whose `head` is the width of an attention head (64).

Without a GPU (a rehearsal) only the errors are looked at, on small tensors, with Triton's interpreter.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import turn

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
TOKENS, WIDTH, VOCABULARY, FFN = (16384, 2048, 128256, 8192) if GPU else (64, 32, 1000, 96)
LENGTH, BATCH, GROUPS, QUERIES, HEAD = (8192, 4, 8, 4, 64) if GPU else (16, 2, 2, 3, 32)
SPEED = 3.0e12  # bytes/s that an H100 copies with
TILES = (
    (8, 64, 2),
    (8, 64, 4),
    (8, 128, 4),
    (8, 256, 8),
    (16, 32, 2),
    (16, 32, 4),
    (16, 64, 4),
    (16, 64, 8),
    (16, 128, 8),
    (32, 32, 4),
    (32, 64, 8),
    (32, 64, 16),
    (32, 16, 4),
    (32, 32, 8),
    (64, 32, 8),
    (64, 16, 4),
)
Found = dict[str, float]


def main() -> None:
    global HEAD
    HEAD = json.loads(sys.argv[1]).get("head", HEAD)
    folder = Path(sys.argv[2])
    if not GPU:
        os.environ["TRITON_INTERPRET"] = "1"
    turn.wait(folder)
    torch.manual_seed(0)
    found: Found = {}
    for part in (output_layer, weight_gradient, swiglu, swiglu_fp8, rotary, attention):
        try:
            part(found)
        except Exception as error:  # noqa: BLE001 - the others are still worth their time
            found[f"{part.__name__} error"] = float("nan")
            print(f"{part.__name__}: {error!r}", flush=True)
        print(json.dumps(found, indent=1), flush=True)
        (folder / "result.json").write_text(json.dumps({"kernels": found, "device": DEVICE_NAME}))


DEVICE_NAME = torch.cuda.get_device_name() if GPU else "CPU"


def milliseconds(work: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return float(do_bench(work, warmup=30, rep=150, return_mode="median"))


def far(found: Any, wanted: Any) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device=DEVICE) * scale).bfloat16()


def output_layer(found: Found) -> None:
    from nemo_workflow.backends.gpu import output_layer

    hidden, weight = random(TOKENS, WIDTH), random(VOCABULARY, WIDTH, scale=0.02)
    labels = torch.randint(0, VOCABULARY, (TOKENS,), device=DEVICE)
    if GPU:
        from transformer_engine.pytorch.cross_entropy import parallel_cross_entropy

        logits = hidden @ weight.t()
        found["cross entropy ours ms"] = milliseconds(lambda: output_layer.loss_and_gradient(logits, labels))
        shaped = logits.view(TOKENS, 1, VOCABULARY).detach().requires_grad_()
        found["cross entropy te forward ms"] = milliseconds(
            lambda: parallel_cross_entropy(shaped, labels.view(TOKENS, 1))
        )
        found["cross entropy floor ms"] = 4 * logits.numel() / SPEED * 1e3
    few = slice(0, min(512, TOKENS))
    labels[3] = -100
    x, w = hidden[few].double().requires_grad_(), weight.double().requires_grad_()
    scale = torch.rand(len(x), device=DEVICE)
    wanted = torch.nn.functional.cross_entropy(x @ w.t(), labels[few], reduction="none")
    (wanted * scale).sum().backward()
    own, own_weight = hidden[few].clone().requires_grad_(), weight.clone().requires_grad_()
    losses = output_layer._OutputLoss.apply(own, own_weight, labels[few], False)
    (losses * scale).sum().backward()
    found["loss error"] = far(losses, wanted)
    found["hidden gradient error"] = far(own.grad, x.grad)
    found["weight gradient error"] = far(own_weight.grad, w.grad)


def weight_gradient(found: Found) -> None:
    if not GPU:
        return
    from nemo_workflow.backends.gpu import weight_gradient

    weight_gradient.install()
    import fused_weight_gradient_mlp_cuda

    main_grad, a, b = torch.randn(256, 512, device=DEVICE), random(1024, 512), random(1024, 256)
    wanted = main_grad.double() + b.double().t() @ a.double()
    fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(a, b, main_grad)
    found["fused weight gradient error"] = far(main_grad, wanted)


def swiglu(found: Found) -> None:
    from nemo_workflow.backends.gpu import activation

    joint, above = random(TOKENS, 2 * FFN), random(TOKENS, FFN)
    few = slice(0, min(256, TOKENS))
    exact = joint[few].double().requires_grad_()
    gate, up = exact.chunk(2, -1)
    (torch.nn.functional.silu(gate) * up).backward(above[few].double())
    found["swiglu gradient error"] = far(activation.swiglu_gradient(above, joint)[few], exact.grad)
    if not GPU:
        return
    from megatron.core.fusions.fused_bias_swiglu import swiglu_back

    found["swiglu gradient stock ms"] = milliseconds(lambda: swiglu_back(above, joint))
    for block, warps in ((1024, 4), (2048, 8), (4096, 8), (8192, 16)):
        activation.BLOCK, activation.WARPS = block, warps
        found[f"swiglu gradient ours ms, block {block} warps {warps}"] = milliseconds(
            lambda: activation.swiglu_gradient(above, joint)
        )
    found["swiglu gradient floor ms"] = 10 * above.numel() / SPEED * 1e3


def swiglu_fp8(found: Found) -> None:
    """Against megatron-core's SwiGLU and Transformer Engine's cast after it: the share of bytes that differ, and times."""
    if not GPU:
        return
    import transformer_engine_torch as tex
    from megatron.core.fusions.fused_bias_swiglu import swiglu
    from transformer_engine.pytorch.tensor.float8_tensor import Float8Quantizer

    from nemo_workflow.backends.gpu import activation, swiglu_fp8

    joint, above = random(4 * TOKENS, 2 * FFN), random(4 * TOKENS, FFN)
    value = Float8Quantizer(torch.full((1,), 3.7, device=DEVICE), torch.zeros(1, device=DEVICE), tex.DType.kFloat8E4M3)
    slope = Float8Quantizer(torch.full((1,), 61.3, device=DEVICE), torch.zeros(1, device=DEVICE), tex.DType.kFloat8E5M2)
    ways = {
        "forward": (lambda: value(swiglu(joint)), value, (joint,)),
        "backward": (lambda: slope(activation.swiglu_gradient(above, joint)), slope, (joint, above)),
    }
    with torch.no_grad():
        for name, (stock, quantizer, inputs) in ways.items():
            quantizer.internal = True
            right, most = stock(), float(quantizer.amax)
            quantizer.amax.zero_()
            kind = swiglu_fp8.kind_of(quantizer)
            straight, across, inverse = swiglu_fp8.swiglu_in_fp8(quantizer, kind, *inputs)
            for what, mine, theirs in (("bytes", straight, right._data), ("transpose", across, right._transpose)):
                differ = (mine != theirs.view(mine.shape)).float().mean()
                found[f"swiglu in fp8 {name} {what}, share that differ: error"] = float(differ)
            apart = abs(float(quantizer.amax) - most) + abs(float(inverse - right._scale_inv))
            found[f"swiglu in fp8 {name} amax and scale error"] = apart
            del straight, across, right
            found[f"swiglu {name} and cast, stock ms"] = milliseconds(stock)
            for quads, columns, warps in TILES:
                swiglu_fp8.QUADS, swiglu_fp8.COLUMNS, swiglu_fp8.WARPS = quads, columns, warps
                found[f"swiglu {name} in fp8 ms, {4 * quads} x {columns}, warps {warps}"] = milliseconds(
                    lambda quantizer=quantizer, kind=kind, inputs=inputs: swiglu_fp8.swiglu_in_fp8(
                        quantizer, kind, *inputs
                    )
                )
            found[f"swiglu {name} in fp8 floor ms"] = (10 if len(inputs) == 2 else 6) * above.numel() / SPEED * 1e3


def rotary(found: Found) -> None:
    from nemo_workflow.backends.gpu import rotary

    angles = torch.outer(
        torch.arange(LENGTH, device=DEVICE).float(), 1.0 / 5e5 ** (torch.arange(0, HEAD, 2, device=DEVICE) / HEAD)
    )
    angles = torch.cat((angles, angles), -1)[:, None, None, :].contiguous()
    joint = random(LENGTH, BATCH, GROUPS, (QUERIES + 2) * HEAD).requires_grad_()
    outputs = rotary.Rotary.apply(joint, angles, HEAD)
    gradients = [torch.randn_like(output) for output in outputs]
    torch.autograd.backward(outputs, gradients)

    exact = joint.detach().double().requires_grad_()
    q, k, v = exact.split([QUERIES * HEAD, HEAD, HEAD], -1)
    wanted = (turned(q.reshape(LENGTH, BATCH, -1, HEAD), angles), turned(k, angles), v)
    torch.autograd.backward(wanted, [gradient.double() for gradient in gradients])
    found["rotary query error"], found["rotary key error"] = (far(outputs[n], wanted[n]) for n in (0, 1))
    found["rotary gradient error"] = far(joint.grad, exact.grad)
    if not GPU:
        return
    from transformer_engine.pytorch.attention.rope import apply_fused_qkv_rotary_pos_emb as stock

    split = [QUERIES * HEAD, HEAD, HEAD]
    with torch.no_grad():
        theirs = stock(joint, angles, angles, split)
        found["rotary te query error"] = far(theirs[0], wanted[0])
        found["rotary te ms"] = milliseconds(lambda: stock(joint, angles, angles, split))
        for warps in (2, 4, 8):
            rotary.WARPS = warps
            found[f"rotary ours ms, warps {warps}"] = milliseconds(lambda: rotary.Rotary.apply(joint, angles, HEAD))
    for name, run in (("te", lambda: stock(joint, angles, angles, split)),
                      ("ours", lambda: rotary.Rotary.apply(joint, angles, HEAD))):  # fmt: skip
        made = run()
        found[f"rotary {name} backward ms"] = milliseconds(
            lambda made=made: torch.autograd.grad(made, joint, gradients, retain_graph=True)
        )
    found["rotary floor ms"] = 4 * joint.numel() / SPEED * 1e3


def attention(found: Found) -> None:
    from nemo_workflow.backends.gpu import attention

    if not attention.available():
        return
    from transformer_engine.pytorch import DotProductAttention

    heads = GROUPS * QUERIES
    sizes = {"num_gqa_groups": GROUPS, "attention_dropout": 0.0, "qkv_format": "sbhd", "attn_mask_type": "causal"}
    stock = DotProductAttention(heads, HEAD, **sizes).cuda()
    ways = {"te": stock, "ours": lambda q, k, v: attention.Attention.apply(q, k, v, HEAD**-0.5)}
    short = [random(1024, 1, number, HEAD).requires_grad_() for number in (heads, GROUPS, GROUPS)]
    exact = [tensor.detach().double().requires_grad_() for tensor in short]
    wanted = attention.plain(*exact, HEAD**-0.5)
    above = random(1024, 1, heads, HEAD)
    wanted.backward(above.double())
    long = [random(LENGTH, BATCH, number, HEAD).requires_grad_() for number in (heads, GROUPS, GROUPS)]
    for name, way in ways.items():
        out = way(*short).reshape(above.shape)
        gradients = torch.autograd.grad(out, short, above)
        found[f"attention {name} error"] = far(out, wanted)
        for letter, gradient, right in zip("qkv", gradients, exact, strict=True):
            found[f"attention {name} d{letter} error"] = far(gradient, right.grad)
        with torch.no_grad():
            found[f"attention {name} ms"] = milliseconds(lambda way=way: way(*long))
        made = way(*long)
        back = torch.randn_like(made)
        found[f"attention {name} backward ms"] = milliseconds(
            lambda made=made, back=back: torch.autograd.grad(made, long, back, retain_graph=True)
        )


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    wide = angles.double()
    return x * wide.cos() + torch.cat((-right, left), -1) * wide.sin()


if __name__ == "__main__":
    main()
