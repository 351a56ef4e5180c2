"""SwiGLU that writes fp8: the kernels of its output and of its gradient cast and transpose for the products that read them.

With delayed scaling a tensor's scale is known before the tensor is. So the bf16 tensor between the activation and Transformer
Engine's cast is neither written nor read: half of the bytes that both kernels move. The numbers are the same: fp32 inside,
rounded to bf16, then scaled and cast.

Transformer Engine casts inside the layers' own functions, by their quantizers. So SwiGLU hands its neighbour a tensor that
nothing has been written to, leaves the work with the neighbour's quantizer, and the quantizer does it when it is asked for
that tensor (`Waiting`). The first time the tensor is written, and what the quantizer makes of it is compared byte by byte: a
layer that doesn't ask, or casts otherwise, is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from nemo_workflow.backends.gpu import aside
from nemo_workflow.backends.registry import find

NAME = "the kernels that cast SwiGLU's output and gradient to fp8"
QUADS, COLUMNS, WARPS = 32, 32, 4  # of a program: fours of rows, columns, warps
SMALL = {torch.float8_e4m3fn: tl.float8e4nv, torch.float8_e5m2: tl.float8e5}
KINDS = {"kFloat8E4M3": torch.float8_e4m3fn, "kFloat8E5M2": torch.float8_e5m2}  # by Transformer Engine's names
PTX = "{ .reg .b16 low, high; cvt.rn.satfinite.KIND.f32 low, $2, $1; cvt.rn.satfinite.KIND.f32 high, $4, $3; mov.b32 $0, {low, high}; }"
PTX_E4M3 = tl.constexpr(PTX.replace("KIND", "e4m3x2"))
PTX_E5M2 = tl.constexpr(PTX.replace("KIND", "e5m2x2"))
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # on a CPU, in tests: there is no PTX
OTHER_BYTES = 1e-3  # of all, that a trial accepts: another compiler's exp differs in its last bit


@triton.jit
def _limited(value, scale, LIMIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scaled; what is too large for fp8 becomes its largest number, NaN stays NaN."""
    scaled = value * scale
    return tl.where(scaled > LIMIT, LIMIT, tl.where(scaled < -LIMIT, -LIMIT, scaled))


@triton.jit
def _four(a, b, c, d, SMALL: tl.constexpr, INTERPRETED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Four numbers cast to fp8, one byte after the other in 32 bits.

    By PTX of its own: taken apart from what is stored in rows as well, ptxas 12.8 lost pairs of bytes.
    """
    if INTERPRETED:
        first = a.to(SMALL).to(tl.uint8, bitcast=True).to(tl.uint32)
        second = b.to(SMALL).to(tl.uint8, bitcast=True).to(tl.uint32)
        third = c.to(SMALL).to(tl.uint8, bitcast=True).to(tl.uint32)
        fourth = d.to(SMALL).to(tl.uint8, bitcast=True).to(tl.uint32)
        packed = first | (second << 8) | (third << 16) | (fourth << 24)
    else:
        packed = tl.inline_asm_elementwise(
            PTX_E4M3 if tl.float8e4nv == SMALL else PTX_E5M2,
            "=r,f,f,f,f",
            [a, b, c, d],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )
    return packed


@triton.jit
def _factor(scale, inverse):  # type: ignore[no-untyped-def]
    """The scale; one program writes 1 / scale."""
    factor = tl.load(scale)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse, tl.div_rn(1.0, factor))
    return factor


@triton.jit
def _tile(rows, width, QUADS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program's part of (rows, width): quads of rows (QUADS, 1), columns (1, COLUMNS), and which are there."""
    quad = tl.program_id(1).to(tl.int64) * QUADS + tl.arange(0, QUADS)[:, None]
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return quad, column, (quad * 4 < rows) & (column < width)


@triton.jit
def _tile_across(rows, width, QUADS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same of the transpose: quads (1, QUADS), columns (COLUMNS, 1), in 64 bits for an address is a column times rows."""
    quad = tl.program_id(1).to(tl.int64) * QUADS + tl.arange(0, QUADS)[None, :]
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[:, None]).to(tl.int64)
    return quad, column, (quad * 4 < rows) & (column < width)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    joint, straight, across, scale, inverse, amax, rows, width,
    SMALL: tl.constexpr, LIMIT: tl.constexpr, QUADS: tl.constexpr, COLUMNS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """joint (rows, 2 width) = (gate, up) -> silu(gate) x up (rows, width) in fp8.

    straight has the result as it is, across its transpose, four rows to a number of 32 bits (single bytes would pass through
    shared memory one at a time); rows is a multiple of four. inverse is 1 / scale.
    """
    factor = _factor(scale, inverse)
    quad, column, there = _tile(rows, width, QUADS, COLUMNS)
    most = tl.zeros((QUADS, COLUMNS), tl.float32)
    kind = joint.dtype.element_ty
    for place in tl.static_range(4):
        row = quad * 4 + place
        gate = tl.load(joint + row * 2 * width + column, mask=there, other=0.0).to(tl.float32)
        up = tl.load(joint + row * 2 * width + width + column, mask=there, other=0.0).to(tl.float32)
        out = (gate * (1.0 / (1.0 + tl.exp(-gate))) * up).to(kind).to(tl.float32)
        most = tl.maximum(most, tl.abs(out))
        value = _limited(out, factor, LIMIT)
        tl.store(straight + row * width + column, value.to(SMALL), mask=there)
        if place == 0:
            a = value
        elif place == 1:
            b = value
        elif place == 2:
            c = value
        else:
            packed = _four(a, b, c, value, SMALL, INTERPRETED)
    tl.atomic_max(amax, tl.max(most))
    quad, column, there = _tile_across(rows, width, QUADS, COLUMNS)
    tl.store(across + column * (rows // 4) + quad, tl.trans(packed), mask=there)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    joint, above, straight, across, scale, inverse, amax, rows, width,
    SMALL: tl.constexpr, LIMIT: tl.constexpr, QUADS: tl.constexpr, COLUMNS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """The gradient (rows, 2 width) of joint in fp8, from that of the result, above (rows, width); else as `_forward`."""
    factor = _factor(scale, inverse)
    quad, column, there = _tile(rows, width, QUADS, COLUMNS)
    most = tl.zeros((QUADS, COLUMNS), tl.float32)
    kind = joint.dtype.element_ty
    for place in tl.static_range(4):
        row = quad * 4 + place
        gate = tl.load(joint + row * 2 * width + column, mask=there, other=0.0).to(tl.float32)
        up = tl.load(joint + row * 2 * width + width + column, mask=there, other=0.0).to(tl.float32)
        gradient = tl.load(above + row * width + column, mask=there, other=0.0).to(tl.float32)
        open_ = 1.0 / (1.0 + tl.exp(-gate))
        of_gate = (gradient * up * open_ * (1.0 + gate * (1.0 - open_))).to(kind).to(tl.float32)
        of_up = (gradient * gate * open_).to(kind).to(tl.float32)
        most = tl.maximum(most, tl.maximum(tl.abs(of_gate), tl.abs(of_up)))
        left = _limited(of_gate, factor, LIMIT)
        right = _limited(of_up, factor, LIMIT)
        tl.store(straight + row * 2 * width + column, left.to(SMALL), mask=there)
        tl.store(straight + row * 2 * width + width + column, right.to(SMALL), mask=there)
        if place == 0:
            a, e = left, right
        elif place == 1:
            b, f = left, right
        elif place == 2:
            c, g = left, right
        else:
            first = _four(a, b, c, left, SMALL, INTERPRETED)
            second = _four(e, f, g, right, SMALL, INTERPRETED)
    tl.atomic_max(amax, tl.max(most))
    quad, column, there = _tile_across(rows, width, QUADS, COLUMNS)
    tl.store(across + column * (rows // 4) + quad, tl.trans(first), mask=there)
    tl.store(across + (column + width) * (rows // 4) + quad, tl.trans(second), mask=there)


def swiglu_in_fp8(quantizer: Any, kind: torch.dtype, joint: torch.Tensor, above: torch.Tensor | None = None) -> Any:
    """SwiGLU of joint (…, 2 f), or with `above` (…, f) its gradient, in the fp8 `kind` by the quantizer's scale.

    The tokens are a multiple of four. Returns the bytes (…, f or 2 f), those of the transpose (f or 2 f, tokens), and 1 / scale. The quantizer's amax is raised to the largest absolute value.
    """
    width = joint.shape[-1] // 2
    rows = joint.numel() // (2 * width)
    last = width if above is None else 2 * width
    straight = torch.empty((*joint.shape[:-1], last), dtype=torch.uint8, device=joint.device)
    across = torch.empty((last, rows), dtype=torch.uint8, device=joint.device)
    inverse = torch.empty(1, dtype=torch.float32, device=joint.device)
    read = (joint,) if above is None else (joint, above)
    kernel = (_forward if above is None else _backward)[triton.cdiv(width, COLUMNS), triton.cdiv(rows, 4 * QUADS)]
    kernel(
        *read, straight.view(kind), across.view(torch.uint32), quantizer.scale, inverse, quantizer.amax, rows, width,
        SMALL=SMALL[kind], LIMIT=torch.finfo(kind).max, QUADS=QUADS, COLUMNS=COLUMNS, INTERPRETED=INTERPRETED, num_warps=WARPS,
    )  # fmt: skip
    return straight, across, inverse


class Waiting:
    """What a quantizer computes when it is asked for a tensor that nothing has been written to. It takes the place of its `quantize_impl`.

    Attributes:
        fits: False once it is known that this layer has to be left as it is.
        tried: the shapes of tensors whose bytes were compared with Transformer Engine's.
    """

    def __init__(self, quantizer: Any):
        self.quantizer = quantizer
        self.stock: Callable[[torch.Tensor], Any] = quantizer.quantize_impl
        self.tensor: torch.Tensor | None = None
        self.inputs: tuple[torch.Tensor, ...] = ()
        self.fits = True
        self.tried: set[torch.Size] = set()

    def leave(self, shape: tuple[int, ...], *inputs: torch.Tensor) -> torch.Tensor:
        """A tensor of this shape that the quantizer will be asked for: unwritten but for the first of its shape."""
        self.settle()
        known = inputs[0].shape in self.tried
        self.tensor = inputs[0].new_empty(shape) if known else in_bf16(*inputs).view(shape)
        self.inputs = inputs
        return self.tensor

    def settle(self) -> None:
        """Look whether the tensor that was left here was asked for.

        Raises:
            RuntimeError: it wasn't, and nothing had been written to it.
        """
        if self.tensor is None:
            return
        known = self.inputs[0].shape in self.tried
        self.tensor, self.inputs = None, ()
        if known:
            raise RuntimeError(f"{NAME}: a tensor was not cast by its quantizer, and would have been read as it was")
        self.leave_out("a layer reads the tensor itself")

    def leave_out(self, reason: BaseException | str) -> None:
        self.fits = False
        aside.left_out(NAME, reason)

    def __call__(self, tensor: torch.Tensor) -> Any:
        if self.tensor is None or tensor.data_ptr() != self.tensor.data_ptr():
            return self.stock(tensor)
        inputs = self.inputs
        known = inputs[0].shape in self.tried
        self.tensor, self.inputs = None, ()
        both = self.quantizer.rowwise_usage and self.quantizer.columnwise_usage
        if not both or inputs[0].shape[:-1].numel() % 4:
            return self.stock(in_bf16(*inputs).view(tensor.shape) if known else tensor)
        return self.cast(tensor, *inputs) if known else self.try_out(tensor, *inputs)

    def cast(self, like: torch.Tensor, *inputs: torch.Tensor) -> Any:
        """The tensor that our kernel writes."""
        return wrapped(self.quantizer, like, *swiglu_in_fp8(self.quantizer, kind_of(self.quantizer), *inputs))

    def try_out(self, tensor: torch.Tensor, *inputs: torch.Tensor) -> Any:
        """Transformer Engine's own tensor, for a written one; ours is compared with it."""
        before = self.quantizer.amax.clone()
        self.quantizer.amax.zero_()
        made = self.stock(tensor)
        amax = self.quantizer.amax.clone()
        self.quantizer.amax.zero_()
        try:
            problem: str | BaseException = difference(
                parts(self.cast(tensor, *inputs)), self.quantizer.amax, parts(made), amax
            )
        except Exception as error:  # noqa: BLE001 - a compiler, a driver, another version: there is another way to train
            problem = error
        if problem:
            self.leave_out(problem)
        self.quantizer.amax.copy_(torch.maximum(before, amax))
        self.tried.add(inputs[0].shape)
        return made


def parts(made: Any) -> tuple[torch.Tensor, ...]:
    """The bytes, those of the transpose, and 1 / scale of a tensor of Transformer Engine's."""
    return made._data.reshape(-1), made._transpose.reshape(-1), made._scale_inv.reshape(-1)


def difference(ours: tuple[torch.Tensor, ...], our_amax: Any, stock: tuple[torch.Tensor, ...], amax: Any) -> str:
    """What of one tensor is not as in another, in words; nothing if they are alike."""
    for name, mine, right in zip(("bytes", "bytes of the transpose"), ours, stock, strict=False):
        if mine.shape != right.shape:
            return f"{mine.numel()} {name}, not {right.numel()}"
        share = int(torch.count_nonzero(mine != right)) / mine.numel()  # a byte each: the card may be all but full
        if share > OTHER_BYTES:
            return f"{share:.2%} of the {name} are not Transformer Engine's"
    if not torch.equal(ours[2], stock[2]):
        return f"its scale is {float(ours[2]):.6g}, not {float(stock[2]):.6g}"
    if not torch.allclose(our_amax, amax, rtol=2**-7, equal_nan=True):
        return f"its largest value is {float(our_amax):.6g}, not {float(amax):.6g}"
    return ""


def waiting(quantizer: Any) -> Waiting:
    """The quantizer's own."""
    if not isinstance(quantizer.quantize_impl, Waiting):
        quantizer.quantize_impl = Waiting(quantizer)
    return quantizer.quantize_impl  # type: ignore[no-any-return]


def kind_of(quantizer: Any) -> torch.dtype:
    return KINDS[quantizer.dtype.name]


def in_bf16(joint: torch.Tensor, above: torch.Tensor | None = None) -> torch.Tensor:
    """SwiGLU, or from `above` its gradient, as megatron-core computes them."""
    from megatron.core.fusions.fused_bias_swiglu import bias_swiglu_impl

    if above is None:
        return bias_swiglu_impl(joint, None)  # type: ignore[no-any-return]
    with torch.enable_grad():  # by autograd, or a kernel of ours that computes the gradient elsewhere would not here
        leaf = joint.detach().requires_grad_()
        return torch.autograd.grad(bias_swiglu_impl(leaf, None), leaf, above)[0]


def wrapped(quantizer: Any, like: torch.Tensor, straight: torch.Tensor, across: torch.Tensor, inverse: Any) -> Any:
    """Transformer Engine's tensor of these bytes, of the shape of `like`."""
    from transformer_engine.pytorch.tensor.float8_tensor import Float8Tensor
    from transformer_engine.pytorch.tensor.storage.float8_tensor_storage import Float8TensorStorage

    made = {
        "data": straight.view(like.shape),
        "fp8_scale_inv": inverse,
        "fp8_dtype": quantizer.dtype,
        "data_transpose": across.view(across.shape[0], *like.shape[:-1]),
        "quantizer": quantizer,
    }
    return Float8TensorStorage(**made) if quantizer.internal else Float8Tensor(like.shape, like.dtype, **made)


class SwiGLU(torch.autograd.Function):
    """joint (s, b, 2 f) -> silu(gate) x up (s, b, f), left with the quantizer of the next layer, its gradient with that of the one before."""

    @staticmethod
    def forward(ctx: Any, joint: torch.Tensor, below: Waiting, above: Waiting) -> torch.Tensor:
        ctx.save_for_backward(joint)
        ctx.below = below
        return above.leave((*joint.shape[:-1], joint.shape[-1] // 2), joint)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        (joint,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        if not ctx.below.fits:
            return in_bf16(joint, gradient), None, None
        return ctx.below.leave(joint.shape, joint, gradient), None, None


def install() -> None:
    """Let megatron-core's MLP take this way where it fits. Imports megatron-core."""
    aside.replace(NAME, find("backends.gpu.swiglu_fp8:mlp_forward"))


def mlp_forward(stock: Any) -> Any:
    """SwiGLU and the casts around it together, for `MLP.forward`."""

    def run(self: Any, hidden_states: torch.Tensor, per_token_scale: Any = None, *more: Any, **named: Any) -> Any:
        unlike = any(value is not None for value in (per_token_scale, *more, *named.values()))
        if unlike or not suits(self) or quantizers(self) is None:
            return stock(self, hidden_states, per_token_scale, *more, **named)
        joint, _ = self.linear_fc1(hidden_states)
        pair = quantizers(self)  # a layer makes them again where its recipe has changed
        if pair is None or not all(one.fits for one in pair):
            return self.linear_fc2(in_bf16(joint))
        below, above = pair
        out = self.linear_fc2(SwiGLU.apply(joint, below, above))
        above.settle()
        return out

    return run


def suits(mlp: Any) -> bool:
    """Whether this is a SwiGLU without biases, trained in fp8 with everything kept on the GPU."""
    config = mlp.config
    return bool(
        config.fp8
        and config.fp8_recipe == "delayed"
        and torch.is_grad_enabled()
        and mlp.training
        and config.bias_activation_fusion
        and not getattr(config, "use_te_activation_func", False)  # not in megatron-core 0.14
        and config.gated_linear_unit
        and mlp.activation_func == torch.nn.functional.silu
        and not config.add_bias_linear
        and not config.activation_func_fp8_input_store
        and config.recompute_granularity != "full"
        and not config.cpu_offloading
        # a trial waits for the GPU, which a graph's recording can't
        and getattr(config, "cuda_graph_impl", "none") == "none"
        and not getattr(config, "enable_cuda_graph", False)
    )


def quantizers(mlp: Any) -> tuple[Waiting, Waiting] | None:
    """That of the gradient of the first layer's output, and that of the second layer's input; None before a layer has run in fp8."""
    layers = mlp.linear_fc1, mlp.linear_fc2
    if not all(getattr(layer, "fp8", False) and hasattr(layer, "quantizers") for layer in layers):
        return None
    pair = layers[0].quantizers["scaling_bwd"], layers[1].quantizers["scaling_fwd"]
    if not all(len(found) for found in pair):
        return None
    gradient, value = pair[0][0], pair[1][0]  # GRAD_OUTPUT1 and GEMM1_INPUT
    if not all(type(one).__name__ == "Float8Quantizer" for one in (gradient, value)):
        return None
    return waiting(gradient), waiting(value)
