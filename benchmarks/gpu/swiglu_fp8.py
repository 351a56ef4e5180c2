"""An experiment, no part of the product: SwiGLU that writes fp8. The `module` of a case of run_cases.py puts it in place.

The kernels of its output and of its gradient cast and transpose for the products that read them.

With delayed scaling a tensor's scale is known before the tensor is. So the bf16 tensor between the activation and Transformer
Engine's cast is neither written nor read: half of the bytes that both kernels move. The numbers are the same: fp32 inside,
rounded to bf16, then scaled and cast.

Transformer Engine casts inside the layers' own functions, by their quantizers. So SwiGLU hands its neighbour a tensor that
nothing has been written to, leaves the work with the neighbour's quantizer, and the quantizer does it when it is asked for
that tensor (`Waiting`). A tensor that nobody asks for ends the run: it would be read as it is.

What was seen of it, and why it is not in use: docs/performance.md.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from nemo_workflow.backends.gpu import aside

NAME = "the kernels that cast SwiGLU's output and gradient to fp8"
TILES = {False: (16, 64, 4), True: (16, 64, 4)}  # backward or not -> fours of rows and columns of a program, warps
SMALL = {torch.float8_e4m3fn: tl.float8e4nv, torch.float8_e5m2: tl.float8e5}
KINDS = {"kFloat8E4M3": torch.float8_e4m3fn, "kFloat8E5M2": torch.float8_e5m2}  # by Transformer Engine's names


@triton.jit
def _in_fp8(value, scale, nothing, kind: tl.constexpr, LIMIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The byte of the value, rounded to bf16 before, in fp8; what is too large becomes the largest number, NaN stays NaN.

    `nothing` is 0, which the compiler doesn't know: where fp8 numbers are stored in fours and taken apart as well, ptxas 12.8
    lost some of them.
    """
    scaled = value * scale
    scaled = tl.where(scaled > LIMIT, LIMIT, tl.where(scaled < -LIMIT, -LIMIT, scaled))
    return scaled.to(kind).to(tl.uint8, bitcast=True).to(tl.uint32) ^ nothing.to(tl.uint32)


@triton.jit
def _swiglu(  # type: ignore[no-untyped-def]
    joint,
    above,
    straight,
    across,
    scale,
    inverse,
    amax,
    rows,
    width,
    nothing,
    BACK: tl.constexpr,
    SMALL: tl.constexpr,
    LIMIT: tl.constexpr,
    QUADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Forward: joint (rows, 2 width) = (gate, up) -> silu(gate) x up (rows, width). BACK: its gradient from that above (rows, width).

    straight has the result as it is, across its transpose, four rows to a number of 32 bits (single bytes would pass through
    shared memory one at a time); rows is a multiple of four. inverse is 1 / scale.
    """
    factor = tl.load(scale)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse, 1.0 / factor)
    quad = tl.program_id(1).to(tl.int64) * QUADS + tl.arange(0, QUADS)[:, None]
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = (quad * 4 < rows) & (column < width)
    first = tl.zeros((QUADS, COLUMNS), tl.uint32)
    second = tl.zeros((QUADS, COLUMNS), tl.uint32)
    most = tl.zeros((QUADS, COLUMNS), tl.float32)
    kind = joint.dtype.element_ty
    for place in tl.static_range(4):
        row = quad * 4 + place
        gate = tl.load(joint + row * 2 * width + column, mask=there, other=0.0).to(tl.float32)
        up = tl.load(joint + row * 2 * width + width + column, mask=there, other=0.0).to(tl.float32)
        open_ = 1.0 / (1.0 + tl.exp(-gate))
        if BACK:
            gradient = tl.load(above + row * width + column, mask=there, other=0.0).to(tl.float32)
            of_gate = (gradient * up * open_ * (1.0 + gate * (1.0 - open_))).to(kind).to(tl.float32)
            of_up = (gradient * gate * open_).to(kind).to(tl.float32)
            most = tl.maximum(most, tl.maximum(tl.abs(of_gate), tl.abs(of_up)))
            left = _in_fp8(of_gate, factor, nothing, SMALL, LIMIT)
            right = _in_fp8(of_up, factor, nothing, SMALL, LIMIT)
            tl.store(straight + row * 2 * width + column, left.to(tl.uint8), mask=there)
            tl.store(straight + row * 2 * width + width + column, right.to(tl.uint8), mask=there)
            first |= left << (8 * place)
            second |= right << (8 * place)
        else:
            out = (gate * open_ * up).to(kind).to(tl.float32)
            most = tl.maximum(most, tl.abs(out))
            left = _in_fp8(out, factor, nothing, SMALL, LIMIT)
            tl.store(straight + row * width + column, left.to(tl.uint8), mask=there)
            first |= left << (8 * place)
    tl.atomic_max(amax, tl.max(most))
    quad_across = tl.program_id(1).to(tl.int64) * QUADS + tl.arange(0, QUADS)[None, :]
    column_across = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[:, None]).to(tl.int64)
    there_across = (quad_across * 4 < rows) & (column_across < width)
    tl.store(across + column_across * (rows // 4) + quad_across, tl.trans(first), mask=there_across)
    if BACK:
        tl.store(across + (column_across + width) * (rows // 4) + quad_across, tl.trans(second), mask=there_across)


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
    back = above is not None
    quads, columns, warps = TILES[back]
    _swiglu[(triton.cdiv(width, columns), triton.cdiv(rows, 4 * quads))](
        joint, above, straight, across.view(torch.uint32), quantizer.scale, inverse, quantizer.amax, rows, width, 0,
        BACK=back, SMALL=SMALL[kind], LIMIT=torch.finfo(kind).max, QUADS=quads, COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return straight, across, inverse


class Waiting:
    """What a quantizer computes when it is asked for a tensor that nothing has been written to. It takes the place of its `quantize_impl`."""

    def __init__(self, quantizer: Any):
        self.quantizer = quantizer
        self.stock = quantizer.quantize_impl
        self.tensor: torch.Tensor | None = None
        self.inputs: tuple[torch.Tensor, ...] = ()

    def leave(self, shape: tuple[int, ...], *inputs: torch.Tensor) -> torch.Tensor:
        """A tensor of this shape, unwritten, that the quantizer will be asked for."""
        self.settle()
        self.tensor = inputs[0].new_empty(shape)
        self.inputs = inputs
        return self.tensor

    def settle(self) -> None:
        """Raise RuntimeError if a tensor that was left here was never asked for."""
        if self.tensor is not None:
            raise RuntimeError(f"{NAME}: a tensor was not cast by its quantizer, and would have been read as it was")

    def __call__(self, tensor: torch.Tensor) -> Any:
        if self.tensor is None or tensor.data_ptr() != self.tensor.data_ptr():
            return self.stock(tensor)
        inputs = self.inputs
        self.tensor, self.inputs = None, ()
        both = self.quantizer.rowwise_usage and self.quantizer.columnwise_usage
        if not both or inputs[0].shape[:-1].numel() % 4:
            return self.stock(in_bf16(*inputs).view(tensor.shape))
        return wrapped(self.quantizer, tensor, *swiglu_in_fp8(self.quantizer, kind_of(self.quantizer), *inputs))


def waiting(quantizer: Any) -> Waiting:
    """The quantizer's own."""
    if not isinstance(quantizer.quantize_impl, Waiting):
        quantizer.quantize_impl = Waiting(quantizer)
    return quantizer.quantize_impl  # type: ignore[no-any-return]


def kind_of(quantizer: Any) -> torch.dtype:
    return KINDS[quantizer.dtype.name]


def in_bf16(joint: torch.Tensor, above: torch.Tensor | None = None) -> torch.Tensor:
    """SwiGLU, with a gradient of its own, or from `above` that gradient, as megatron-core computes them."""
    from megatron.core.fusions.fused_bias_swiglu import bias_swiglu_impl, swiglu_back

    if above is None:
        return bias_swiglu_impl(joint, None)  # type: ignore[no-any-return]
    return swiglu_back(above.view(-1, above.shape[-1]), joint.view(-1, joint.shape[-1]))  # type: ignore[no-any-return]


def wrapped(quantizer: Any, like: torch.Tensor, straight: torch.Tensor, across: torch.Tensor, inverse: Any) -> Any:
    """Transformer Engine's tensor of these bytes, of the shape of `like`."""
    from transformer_engine.pytorch.tensor.float8_tensor import Float8Tensor
    from transformer_engine.pytorch.tensor.storage.float8_tensor_storage import Float8TensorStorage

    parts = {
        "data": straight.view(like.shape),
        "fp8_scale_inv": inverse,
        "fp8_dtype": quantizer.dtype,
        "data_transpose": across.view(across.shape[0], *like.shape[:-1]),
        "quantizer": quantizer,
    }
    return Float8TensorStorage(**parts) if quantizer.internal else Float8Tensor(like.shape, like.dtype, **parts)


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
        return ctx.below.leave(joint.shape, joint, gradient.contiguous()), None, None


def install() -> None:
    """Let megatron-core's MLP take this way where it fits. Imports megatron-core."""
    from megatron.core.transformer.mlp import MLP

    MLP.forward = forward(MLP.forward)


def forward(stock: Any) -> Any:
    """SwiGLU and the casts around it together, for `MLP.forward`."""
    proof = aside.Proof(NAME, distance)

    def proven(mlp: Any, device: torch.device) -> bool:
        pair = quantizers(mlp)
        return pair is not None and all(proof.holds(kind_of(one), device=device) for one in pair)

    def run(self: Any, hidden_states: torch.Tensor, per_token_scale: Any = None) -> Any:
        fit = per_token_scale is None and suits(self)
        if not (fit and proven(self, hidden_states.device)):
            return stock(self, hidden_states, per_token_scale)
        joint, _ = self.linear_fc1(hidden_states)
        pair = quantizers(self)  # a layer makes them again where its scales have moved
        if pair is None:  # the layers have left fp8
            return self.linear_fc2(in_bf16(joint))
        below, above = (waiting(one) for one in pair)
        out = self.linear_fc2(SwiGLU.apply(joint, below, above))
        above.settle()
        return out

    return run


def suits(mlp: Any) -> bool:
    """Whether this is a SwiGLU without biases, trained with everything kept on the GPU."""
    config = mlp.config
    return bool(
        config.fp8
        and config.fp8_recipe == "delayed"
        and torch.is_grad_enabled()
        and mlp.training
        and config.bias_activation_fusion
        and not config.use_te_activation_func
        and config.gated_linear_unit
        and mlp.activation_func == torch.nn.functional.silu
        and not config.add_bias_linear
        and not config.activation_func_fp8_input_store
        and config.recompute_granularity != "full"
        and not config.cpu_offloading
    )


def quantizers(mlp: Any) -> tuple[Any, Any] | None:
    """That of the gradient of the first layer's output, and that of the second layer's input; None before a layer has run in fp8."""
    layers = mlp.linear_fc1, mlp.linear_fc2
    if not all(getattr(layer, "fp8", False) and hasattr(layer, "quantizers") for layer in layers):
        return None
    pair = layers[0].quantizers["scaling_bwd"], layers[1].quantizers["scaling_fwd"]
    if not all(len(found) for found in pair):
        return None
    gradient, value = pair[0][0], pair[1][0]  # GRAD_OUTPUT1 and GEMM1_INPUT
    return (gradient, value) if all(type(one).__name__ == "Float8Quantizer" for one in (gradient, value)) else None


class Scaled:
    """As much of a quantizer as the kernel reads."""

    def __init__(self, scale: float, device: torch.device):
        self.scale = torch.full((1,), scale, device=device)
        self.amax = torch.zeros(1, device=device)


def distance(kind: torch.dtype, device: torch.device) -> float:
    """How far what the kernels write is from the same cast by PyTorch."""
    draw = aside.random(device)
    above, joint = draw(48, 96), draw(48, 192)
    with torch.enable_grad():
        exact = joint.float().requires_grad_()
        gate, up = exact.chunk(2, -1)
        value = torch.nn.functional.silu(gate) * up
        gradient = torch.autograd.grad(value, exact, above.float())[0]
    ours: list[torch.Tensor] = []
    right: list[torch.Tensor] = []
    for inputs, plain in (((joint,), value.detach()), ((joint, above), gradient)):
        quantizer = Scaled(8.0, device)
        straight, across, inverse = swiglu_in_fp8(quantizer, kind, *inputs)
        # fp8 keeps two or three bits: what PyTorch casts is compared, not the plain numbers
        cast = (plain.bfloat16().float() * 8).to(kind).float() / 8
        ours += [straight.view(kind).float() * inverse, across.view(kind).float().t() * inverse, quantizer.amax]
        right += [cast, cast, plain.abs().max().reshape(1)]
    return aside.apart(ours, right)
