"""Seconds of the parts of a model for one micro batch on one rank: the GPU's kernels, transfers inside the model, the host.

- Matrix products: operations over a rate that falls for small shapes: of (M, K) x (K, N) the loads and stores grow with
  MK, KN and MN, so that the time is that of the operations x (1 + s/K + o/M + o/N) (NVIDIA, "Matrix Multiplication
  Background User's Guide"; s and o from benchmarks/gpu/rates.py).
- Causal attention: operations as in FlashAttention (arXiv 2205.14135), at rates by width of a head and sequence length.
- All else moves bytes: reads and writes of each kernel over the memory's bandwidth, counted from the kernels that a
  profile shows (docs/performance.md, "Where the time of a step goes").
- Tensor and sequence parallelism: all-gathers and reduce-scatters of the activations (Korthikanti et al., arXiv
  2205.05198, section 4.2.2); context parallelism: a ring of keys and values (Ring Attention, arXiv 2310.01889); expert
  parallelism: two all-to-alls each way. A ring of n ranks moves (n-1)/n of the bytes over a rank's link.
- The host starts a layer's kernels in a time that doesn't depend on their size.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

from nemo_workflow.config import memory
from nemo_workflow.config.memory import Job
from nemo_workflow.utils.gpus import Gpu

BF16 = 2  # bytes
H200_PRODUCTS = 718e12  # operations per second of the card whose attention was measured


@dataclass(frozen=True)
class Rates:
    """Constants that were fitted to measured runs (tests/config/test_step_time.py); benchmarks/plan_time.md says on which."""

    product_share: float = 0.73  # of the data sheet's peak, for a GPU of which nothing was measured
    bandwidth_share: float = 0.835  # of the data sheet's
    nvlink_share: float = 0.70  # 329 of 450 GB/s in an all-reduce of two H200
    pcie_share: float = 0.6
    network_share: float = 0.8
    # TFLOP/s of an H200's attention on long sequences, width of a head -> forward, backward
    flash_4: tuple[tuple[int, float, float], ...] = ((64, 480, 390), (128, 610, 450))
    cudnn: tuple[tuple[int, float, float], ...] = ((64, 430, 330), (128, 580, 400))
    attention_half: float = 300  # length of a sequence at which attention reaches half of its rate
    # where the summed dimension, and each of the others, doubles a product's time: 432 products in bf16 on an H200 are
    # within 3.5 % of that, 123 in fp8 within 3.2 %
    summed_half: float = 152
    outer_half: float = 69
    summed_half_fp8: float = 350
    outer_half_fp8: float = 99
    ring_attention: float = 0.89  # of attention's rate where context parallelism cuts it into blocks
    host_layer: float = 3.4e-3  # seconds per layer and micro batch, forward and backward
    host_parts: float = 0.8e-3  # more in the stock recipe, or where SwiGLU and rotary embedding are in parts
    host_fp8: float = 3.2e-3
    host_fp8_first: float = 9.7e-3  # a layer's weights cast and scaled, once a step
    host_ring: float = 2.5e-3  # a step of context parallelism's ring
    host_tensor: float = 0.5e-3
    host_micro_batch: float = 13e-3


RATES = Rates()


@dataclass(frozen=True)
class Links:
    """Bytes a second that a rank sends while its group talks, and seconds that one transfer takes at least."""

    tensor: float
    context: float
    expert: float
    latency: float = 27e-6


@dataclass(frozen=True)
class Device:
    """The GPU that a part runs on, its links, and the kernels that are installed."""

    gpu: Gpu
    links: Links
    flash_4: bool = True  # FlashAttention 4 is installed; only a Hopper takes it
    fused: bool = True  # our kernels and settings; False: the stock recipe
    parts: bool = False  # SwiGLU and rotary embedding computed operation by operation
    rates: Rates = field(default=RATES)
    tensor_shows: float = 1.0  # share of a tensor parallel transfer's time that a step is longer by

    @property
    def bytes_a_second(self) -> float:
        return self.gpu.bandwidth * 1e12 * self.rates.bandwidth_share

    def product_rate(self, fp8: bool) -> float:
        """Operations a second of large products."""
        kind = "fp8" if fp8 and self.gpu.fp8 else "bf16"
        peak = self.gpu.fp8 if kind == "fp8" and self.gpu.fp8 else self.gpu.bf16
        return 1e12 * (self.gpu.measured.get(kind) or peak * self.rates.product_share)


@dataclass(frozen=True)
class Seconds:
    """Time by kind. `host` runs beside the others."""

    products: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    host: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*map(operator.add, self.values, other.values))

    def __mul__(self, times: float) -> Seconds:
        return Seconds(*[times * a for a in self.values])

    @property
    def values(self) -> tuple[float, ...]:
        return (self.products, self.attention, self.elementwise, self.tensor, self.context, self.expert, self.host)

    @property
    def gpu(self) -> float:
        return sum(self.values[:-1])


@dataclass(frozen=True)
class Both:
    """A part's forward and backward pass."""

    forward: Seconds = Seconds()
    backward: Seconds = Seconds()

    def __add__(self, other: Both) -> Both:
        return Both(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> Both:
        return Both(self.forward * times, self.backward * times)


@dataclass(frozen=True)
class Product:
    """tokens x columns_in times columns_in x columns_out; `times` of them beside each other (experts)."""

    tokens: float
    columns_out: float
    columns_in: float
    times: float = 1


def layer(job: Job, device: Device, number: int) -> Both:
    """One layer, all its parts."""
    found = Both()
    for part in memory.layer_parts(job.family, job.sizes, number):
        found += _PARTS[part](job, device)
    return found


def ends(job: Job, device: Device, first: bool, last: bool) -> Both:
    """Embedding on the first stage; last norm, output matrix and loss on the last one."""
    sizes, split = job.sizes, job.layout.tensor
    tokens, h, words = memory.tokens_of(job), sizes["hidden_size"], job.vocabulary / split
    found = Both()
    if first:  # the gradient is a dense tensor: zeroed, added to, and added to the buffer
        found += _bytes(device, 4 * h * tokens, 4 * h * tokens + 16 * words * h)
    if last:
        loss = (6 if device.fused else 10) if job.cross_entropy == "te" else 48
        output = Product(tokens, words, h)
        if job.fp8_output_layer:
            found += _fp8_output(device, output)
        else:
            found += _products(job, device, [output], fp8=False)
        found += _bytes(device, loss / 3 * words * tokens, loss * 2 / 3 * words * tokens)
        found += _transfers(job, device, 1, 2)
    return found


def _fp8_output(device: Device, p: Product) -> Both:
    """The output layer of backends/gpu/output_layer_fp8.py: inputs and matrix cast in two orders, the gradient in one by the loss.

    The matrix's gradient is made for a chunk of tokens at a time and added to the fp32 buffer by a kernel of its own.
    """
    states, matrix = p.tokens * p.columns_in, p.columns_in * p.columns_out
    chunks = max(1.0, p.tokens / memory.FP8_CHUNK)
    moved = _bytes(device, 6 * states + 6 * matrix, 2 * p.tokens * p.columns_out + 10 * states + 16 * chunks * matrix)
    return _multiplied(device, [p], True, device.product_rate(fp8=True)) + moved


def _attention(job: Job, device: Device) -> Both:
    """Norm, QKV, rotary embedding, attention, output product, residual."""
    sizes, split = job.sizes, job.layout.tensor
    tokens, h, width = memory.tokens_of(job), sizes["hidden_size"], sizes["kv_channels"]
    heads, groups = sizes["num_attention_heads"], sizes["num_query_groups"] or sizes["num_attention_heads"]
    qkv, out = (heads + 2 * groups) * width / split, heads * width / split
    found = _products(job, device, [Product(tokens, qkv, h), Product(tokens, h, out)], job.fp8)
    rotary = 4 * qkv * (8 if device.parts else 1)
    found += _bytes(device, rotary * tokens, (rotary + 10 * out) * tokens)
    found += _scores(job, device, width, 2 * width)
    found += _ring(job, device, 2 * groups * width / split, out)
    return found + _around(job, device) + _transfers(job, device, 2, 3 if job.layout.sequence_parallel else 2)


def _latent_attention(job: Job, device: Device) -> Both:
    """DeepSeek's: low-rank products, then attention of query width key + rope and value width."""
    sizes, split = job.sizes, job.layout.tensor
    tokens, h, heads = memory.tokens_of(job), sizes["hidden_size"], sizes["num_attention_heads"] / split
    rope, value, rank = sizes["qk_pos_emb_head_dim"], sizes["v_head_dim"], sizes["kv_lora_rank"]
    key, query_rank = sizes["qk_head_dim"] + rope, sizes["q_lora_rank"]
    products = [
        Product(tokens, rank + rope, h),
        Product(tokens, heads * (sizes["qk_head_dim"] + value), rank),
        Product(tokens, h, heads * value),
    ]
    if query_rank:
        products += [Product(tokens, query_rank, h), Product(tokens, heads * key, query_rank)]
    else:
        products.append(Product(tokens, heads * key, h))
    found = _products(job, device, products, job.fp8)
    expanded = heads * (2 * key + value)
    found += _bytes(device, 8 * expanded * tokens, 12 * expanded * tokens)
    found += _scores(job, device, key, key + value) + _ring(job, device, heads * (key + value), heads * value)
    return found + _around(job, device) + _transfers(job, device, 2, 3 if job.layout.sequence_parallel else 2)


def _mlp(job: Job, device: Device) -> Both:
    found = _gated(job, device, memory.tokens_of(job), job.sizes["ffn_hidden_size"] / job.layout.tensor)
    return found + _around(job, device) + _transfers(job, device, 2, 3 if job.layout.sequence_parallel else 2)


def _experts(job: Job, device: Device) -> Both:
    """Router, tokens sorted and sent, the experts' MLPs (evenly used), tokens sent back; the expert that all tokens pass."""
    sizes, layout = job.sizes, job.layout
    split = layout.expert_tensor or layout.tensor
    tokens, h = memory.tokens_of(job) * split / layout.tensor, sizes["hidden_size"]
    here = sizes["num_moe_experts"] / layout.expert
    sent = tokens * sizes["moe_router_topk"]
    found = _gated(job, device, sent / here, sizes["moe_ffn_hidden_size"] / split, times=here)
    found += _bytes(device, 8 * h * sent, 8 * h * sent)
    found += Both(*(Seconds(expert=2 * _one(layout.expert, BF16 * h * sent, device.links.expert, device)),) * 2)
    shared = sizes.get("moe_shared_expert_intermediate_size")
    if shared:
        found += _gated(job, device, memory.tokens_of(job), shared / layout.tensor)
    passes = 2 if split > 1 else 1
    return found + _around(job, device) + _transfers(job, device, passes, passes)


def _gated(job: Job, device: Device, tokens: float, width: float, times: float = 1) -> Both:
    """The two products of an MLP and its activation function."""
    h, first = job.sizes["hidden_size"], 2 if job.sizes["gated_linear_unit"] else 1
    products = [Product(tokens, first * width, h, times), Product(tokens, h, width, times)]
    passes = 2.3 if device.parts else 1
    moved = width * tokens * times * passes
    return _products(job, device, products, job.fp8) + _bytes(device, (2 * first + 2) * moved, (4 * first + 2) * moved)


def _mamba(job: Job, device: Device) -> Both:
    """Mamba 2: input and output product; the scan and the short convolution by their bytes."""
    sizes, split = job.sizes, job.layout.tensor
    heads = sizes.get("mamba_num_heads") or 2 * sizes["hidden_size"] // sizes["mamba_head_dim"]
    inner = heads * sizes["mamba_head_dim"]
    projected = (2 * inner + 2 * sizes["mamba_num_groups"] * sizes["mamba_state_dim"] + heads) / split
    return _mixer(job, device, projected, inner / split, 24 * projected)


def _convolution(job: Job, device: Device) -> Both:
    """Hyena: three projections, convolutions by their bytes, a product out."""
    h = job.sizes["hidden_size"]
    return _mixer(job, device, 3 * h / job.layout.tensor, h / job.layout.tensor, 64 * h / job.layout.tensor)


def _mixer(job: Job, device: Device, projected: float, inner: float, moved: float) -> Both:
    tokens, h = memory.tokens_of(job), job.sizes["hidden_size"]
    found = _products(job, device, [Product(tokens, projected, h), Product(tokens, h, inner)], job.fp8)
    found += _bytes(device, moved * tokens, 2 * moved * tokens)
    return found + _around(job, device) + _transfers(job, device, 2, 3 if job.layout.sequence_parallel else 2)


def _around(job: Job, device: Device) -> Both:
    """A norm, the residual's addition, and the host's time for this half of a layer."""
    tokens, h = memory.tokens_of(job), job.sizes["hidden_size"]
    split = job.layout.tensor if job.layout.sequence_parallel else 1
    rates, layout = device.rates, job.layout
    host = (
        rates.host_layer
        + (rates.host_fp8 if job.fp8 else 0)
        + (rates.host_parts if device.parts or not device.fused else 0)
    )
    host += rates.host_tensor if layout.tensor > 1 else 0
    host += rates.host_ring * (layout.context - 1)
    halves = Both(Seconds(host=host / 6), Seconds(host=host / 3))  # a backward pass starts twice the kernels
    return halves + _bytes(device, 10 * h * tokens / split, 12 * h * tokens / split)


def _products(job: Job, device: Device, products: list[Product], fp8: bool) -> Both:
    """Forward; backward twice that, the weight's gradient added in fp32 to its buffer. fp8: inputs and gradients are cast."""
    accumulated, cast_in, cast_out = 0.0, 0.0, 0.0
    rate = device.product_rate(fp8)
    if job.precision == "32":
        rate /= 4
    for p in products:
        accumulated += p.times * p.columns_in * p.columns_out * (8 if device.fused else 14)
        cast_in += p.times * p.tokens * p.columns_in
        cast_out += p.times * p.tokens * p.columns_out
    found = _multiplied(device, products, fp8, rate) + _bytes(device, 0, accumulated)
    if fp8:  # read, written in two orders; the largest value is looked for in a pass of its own
        found += _bytes(device, 6 * cast_in, 6 * cast_out)
    return found


def _multiplied(device: Device, products: list[Product], fp8: bool, rate: float) -> Both:
    """The operations of a forward product and of its two backward ones."""
    forward, backward = 0.0, 0.0
    for p in products:
        ideal = p.times * 2 * p.tokens * p.columns_in * p.columns_out / rate
        slowing = [_slowing(device, p, summed, fp8) for summed in (p.columns_in, p.columns_out, p.tokens)]
        forward += ideal * slowing[0]
        backward += ideal * (slowing[1] + slowing[2])
    return Both(Seconds(products=forward), Seconds(products=backward))


def _slowing(device: Device, p: Product, summed: float, fp8: bool) -> float:
    """Time of a product of these three dimensions over that of its operations at full rate; `summed` is one of them."""
    rates = device.rates
    of_summed = rates.summed_half_fp8 if fp8 else rates.summed_half
    of_outer = rates.outer_half_fp8 if fp8 else rates.outer_half
    each = 1 / p.tokens + 1 / p.columns_in + 1 / p.columns_out
    return 1 + of_outer * each + (of_summed - of_outer) / summed


def _bytes(device: Device, forward: float, backward: float) -> Both:
    return Both(
        Seconds(elementwise=forward / device.bytes_a_second), Seconds(elementwise=backward / device.bytes_a_second)
    )


def _scores(job: Job, device: Device, key: float, widths: float) -> Both:
    """Attention itself; `widths` is key width + value width."""
    layout, rates = job.layout, device.rates
    tokens, heads = memory.tokens_of(job), job.sizes["num_attention_heads"] / layout.tensor
    work = tokens * job.seq_length * heads * widths
    if job.family in ("bert", "t5"):  # not causal
        work *= 2
    fast = device.flash_4 and device.gpu.hopper and layout.context == 1 and key in (64, 128)
    table = rates.flash_4 if fast else rates.cudnn
    _, forward, backward = min(table, key=lambda row: abs(row[0] - key))
    of_peak = device.product_rate(fp8=False) / H200_PRODUCTS
    share = of_peak * min(1.0, key / 64) * job.seq_length / (job.seq_length + rates.attention_half)
    if layout.context > 1:
        share *= rates.ring_attention
    if job.score_matrices:
        share /= 4
    return Both(
        Seconds(attention=work / (forward * 1e12 * share)), Seconds(attention=2 * work / (backward * 1e12 * share))
    )


def _ring(job: Job, device: Device, keys_values: float, out: float) -> Both:
    """Context parallelism: keys and values go round, what attention finds is merged. Of the transfers half is hidden."""
    ranks, tokens = job.layout.context, memory.tokens_of(job)
    if ranks == 1:
        return Both()
    each = BF16 * keys_values * tokens / device.links.context + device.links.latency
    moves = Both(Seconds(context=(ranks - 1) * each / 2), Seconds(context=(ranks - 1) * each))
    return moves + _bytes(device, 16 * out * tokens * ranks / 2, 16 * out * tokens * ranks / 2)


def _transfers(job: Job, device: Device, forward: int, backward: int) -> Both:
    """All-gathers and reduce-scatters of a layer's activations among the tensor parallel ranks."""
    ranks = job.layout.tensor
    one = _one(ranks, BF16 * memory.tokens_of(job) * job.sizes["hidden_size"], device.links.tensor, device)
    one *= device.tensor_shows
    return Both(Seconds(tensor=forward * one), Seconds(tensor=backward * one))


def _one(ranks: int, size: float, bytes_a_second: float, device: Device) -> float:
    """Seconds of one pass round a ring of `ranks` over a tensor of `size` bytes."""
    return 0.0 if ranks == 1 else (ranks - 1) / ranks * size / bytes_a_second + device.links.latency


_PARTS = {
    "attention": _attention,
    "latent attention": _latent_attention,
    "mlp": _mlp,
    "experts": _experts,
    "mamba": _mamba,
    "convolution": _convolution,
}
