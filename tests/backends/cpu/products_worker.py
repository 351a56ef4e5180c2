"""Run by test_products.py in a process that takes its CPU for an old one: every product natively and as we choose it.

Prints {"slow": what was measured, "times": {type: {product: [native, chosen] CPU seconds}}, "wrong": [...]}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from nemo_workflow.backends.cpu import products

torch.set_num_threads(1)
torch.manual_seed(1)
NAN = float("nan")


def operands(dtype: torch.dtype) -> dict[str, Tensor]:
    """Of the sizes of a small layer."""
    shapes = {"a": (256, 256), "b": (256, 256), "row": (256,), "batch": (8, 128, 64), "heads": (1, 8, 128, 64)}
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


PRODUCTS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "mm": lambda x: torch.mm(x["a"], x["b"]),
    "mm out": lambda x: torch.mm(x["a"], x["b"], out=torch.empty_like(x["a"])),
    "addmm": lambda x: torch.addmm(x["row"], x["a"], x["b"], beta=0.5, alpha=2),
    "addmm out": lambda x: torch.addmm(x["row"], x["a"], x["b"], out=torch.empty_like(x["a"])),
    "addmm in place": lambda x: x["a"].clone().addmm_(x["a"], x["b"]),
    "bmm": lambda x: torch.bmm(x["batch"], x["batch"].mT),
    "bmm out": lambda x: torch.bmm(x["batch"], x["batch"].mT, out=x["a"].new_empty(8, 128, 128)),
    # Megatron's attention: what is added counts nothing, not even a NaN
    "baddbmm": lambda x: torch.baddbmm(torch.full_like(x["batch"][:, :, :1], NAN), x["batch"], x["batch"].mT, beta=0),
    "baddbmm in place": lambda x: x["a"].new_ones(8, 128, 128).baddbmm_(x["batch"], x["batch"].mT),
    "addbmm": lambda x: torch.addbmm(x["a"][:128, :128], x["batch"], x["batch"].mT),
    "matmul of 4 dimensions": lambda x: x["heads"] @ x["heads"].mT,
    "matmul broadcast": lambda x: x["heads"] @ x["batch"].mT[:1],
    "linear": lambda x: linear(x["a"].view(4, 64, 256), x["b"].t().contiguous().t(), x["row"]),
    "einsum": lambda x: torch.einsum("bik,bjk->bij", x["batch"], x["batch"]),
}


def attention_gradient(x: dict[str, Tensor]) -> Tensor:
    heads = x["heads"].clone().requires_grad_()
    scaled_dot_product_attention(heads, heads, heads, is_causal=True).sum().backward()
    assert heads.grad is not None
    return heads.grad


def linear_gradient(x: dict[str, Tensor]) -> Tensor:
    a, b = x["a"].clone().requires_grad_(), x["b"].clone().requires_grad_()
    linear(a, b).square().sum().backward()
    assert a.grad is not None and b.grad is not None
    return torch.cat([a.grad, b.grad])


ALL = {**PRODUCTS, "attention's gradient": attention_gradient, "linear's gradient": linear_gradient}


def cpu_seconds(work: Callable[[dict[str, Tensor]], Tensor], x: dict[str, Tensor]) -> float:
    times = []
    for _ in range(4):
        began = time.process_time()
        work(x)
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    data = {name: operands(dtype) for name, dtype in products.TYPES.items()}
    wide = {name: {key: value.float() for key, value in data[name].items()} for name in data}
    exact = {(name, product): ALL[product](wide[name]) for name in data for product in ALL}
    native = {(name, product): cpu_seconds(ALL[product], data[name]) for name in data for product in ALL}
    slow = products.use_fastest()
    chosen = {(name, product): cpu_seconds(ALL[product], data[name]) for name in data for product in ALL}
    wrong = []
    for (name, product), wanted in exact.items():
        got = ALL[product](data[name])
        rounded = wanted.to(products.TYPES[name])
        if got.dtype is not rounded.dtype or got.shape != rounded.shape:
            wrong.append(f"{product} of {name}: {got.dtype} {tuple(got.shape)}")
        elif product in PRODUCTS and not torch.equal(got, rounded):  # computed in fp32 and rounded once
            wrong.append(f"{product} of {name}: not fp32's, rounded")
        elif not torch.allclose(got.float(), wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max())):
            wrong.append(f"{product} of {name}: far from fp32's")
    for product, wanted in {key[1]: value for key, value in exact.items() if key[0] == "bf16"}.items():
        if not torch.equal(ALL[product](wide["bf16"]), wanted):
            wrong.append(f"{product} of fp32 has changed")
    times = {n: {p: [native[n, p], chosen[n, p]] for p in ALL} for n in data}
    print(json.dumps({"slow": slow, "times": times, "wrong": wrong}))


if __name__ == "__main__":
    main()
