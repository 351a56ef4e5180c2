"""Bytes that a run takes on its fullest GPU, worked out from the plan alone.

Weights, gradients and optimizer state are counted as megatron-core allocates them (DistributedDataParallel's buffers,
DistributedOptimizer). Activations follow Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models" (arXiv 2205.05198), with their attention term dropped, because flash attention keeps no score matrix, and with
the tensors counted that Transformer Engine keeps for the backward pass. docs/memory.md has the derivation and
measured values beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_workflow.config import optimizer_states
from nemo_workflow.config.parallelism import Layout, chunks_of, layers_a_stage
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.settings import Settings
from nemo_workflow.models import parameters
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.models.parameters import Count

GIB = 2**30
LIBRARIES = int(1.5 * GIB)  # CUDA context, cuBLAS workspaces, NCCL buffers, what the allocator can't use
FP8_CHUNK = 16384  # tokens, of backends/gpu/output_layer_fp8.py
LOGIT_BYTES = {"native": 8, "te": 0}  # bytes a logit beside itself: two fp32 copies in Megatron's own cross entropy


class _Sizes:
    """A model's sizes as a key: the same object is the same model (a search looks at one some thousand times)."""

    def __init__(self, sizes: Mapping[str, Any]):
        self.sizes = sizes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sizes) and self.sizes is other.sizes

    def __hash__(self) -> int:
        return id(self.sizes)


@dataclass(frozen=True)
class Job:
    """What decides the memory of a run."""

    family: str
    model_class: str
    sizes: Mapping[str, Any]
    vocabulary: int  # padded
    layout: Layout
    seq_length: int
    micro_batch: int
    micro_batches: int  # a step and data-parallel rank
    stages: tuple[int, ...]  # layers of each pipeline stage
    precision: str = "bf16-mixed"
    fp32_grad_reduce: bool = True
    fp8: bool = False
    fp8_output_layer: bool = False
    distributed_optimizer: bool = True
    sgd: bool = False
    bf16_moments: bool = False
    optimizer_offload: float = 0.0  # fraction of Adam's moments and fp32 weights in host memory
    offloaded_layers: int = 0  # layers whose activations go to host memory
    recompute_granularity: str | None = None
    recompute_method: str | None = None
    recompute_layers: int = 0
    recompute_modules: tuple[str, ...] = ()
    cross_entropy: str = "te"
    score_matrices: bool = False  # attention keeps its probabilities: Transformer Engine has no fused kernel for fp32


@dataclass(frozen=True)
class Usage:
    """Bytes on one GPU of pipeline stage `stage`."""

    stage: int
    parameters: int  # on this GPU
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int  # or what one layer takes while it is recomputed and differentiated, where that is more
    setup: int  # before the first step: the most where the optimizer is offloaded or shared by many ranks
    update: int  # while the optimizer steps, when the activations are gone
    libraries: int = LIBRARIES

    @property
    def total(self) -> int:
        step = self.weights + self.gradients + self.optimizer + self.activations + self.logits
        return max(step, self.setup, self.update) + self.libraries


def job_of(plan: Plan, recipe: Recipe) -> Job:
    """The plan as the memory formula sees it."""
    return job_with(plan.settings, recipe, plan.sizes, plan.layout, plan.seq_length, plan.vocab_size, plan.accelerator)


def job_with(
    settings: Settings,
    recipe: Recipe,
    sizes: Mapping[str, Any],
    layout: Layout,
    seq_length: int,
    vocab_size: int,
    accelerator: str,
) -> Job:
    """The job of these settings, sizes and layout. `vocab_size` is the tokenizer's, unpadded."""
    precision = settings.precision or recipe.precision["precision"]
    granularity = settings.recompute_granularity or sizes.get("recompute_granularity")
    return Job(
        family=recipe.family,
        model_class=recipe.model_class,
        sizes=sizes,
        vocabulary=parameters.padded_vocabulary(sizes, vocab_size, layout.tensor),
        layout=layout,
        seq_length=seq_length,
        micro_batch=settings.micro_batch_size,
        micro_batches=layout.micro_batches(settings.global_batch_size, settings.micro_batch_size),
        stages=tuple(layers_a_stage(sizes, recipe.layout, layout)),
        precision=precision,
        fp32_grad_reduce=not settings.grad_reduce_in_bf16 and _fp32_grad_reduce(settings, recipe),
        fp8=settings.fp8 or (settings.precision is None and bool(recipe.precision["fp8"])),
        fp8_output_layer=settings.fp8_output_layer,
        distributed_optimizer=not settings.disable_dist_optim,
        sgd=(settings.optimizer or recipe.fields["optim.config.optimizer"]) == "sgd",
        bf16_moments=optimizer_states.bf16_moments(settings, recipe),
        optimizer_offload=settings.optim_cpu_offloading_frac if settings.optim_cpu_offloading else 0.0,
        offloaded_layers=settings.cpu_offloading_layers or 0 if settings.cpu_offloading_activations else 0,
        recompute_granularity=granularity,
        recompute_method=settings.recompute_method or sizes.get("recompute_method"),
        recompute_layers=settings.recompute_num_layers or sizes.get("recompute_num_layers") or 0,
        recompute_modules=tuple(sizes.get("recompute_modules") or ()),
        # gpu_settings.py takes Transformer Engine's wherever a recipe fuses the loss
        cross_entropy="te" if sizes.get("cross_entropy_loss_fusion") and precision != "16-mixed" else "native",
        score_matrices=precision == "32" and accelerator == "gpu",
    )


def _fp32_grad_reduce(settings: Settings, recipe: Recipe) -> bool:
    """Of NeMo's own plugins only those for fp16 reduce gradients in 16 bits; without --precision the recipe's own counts."""
    return settings.precision != "16-mixed" if settings.precision else recipe.fp32_grad_reduce


def fullest(job: Job) -> Usage:
    """The usage of the pipeline stage that needs most."""
    return max((usage_of(job, stage) for stage in _stages_that_differ(job)), key=lambda usage: usage.total)


def _stages_that_differ(job: Job) -> list[int]:
    """The first stage, the last, and of the others those whose layers no earlier one has: an earlier one keeps more micro batches."""
    last = job.layout.pipeline - 1
    found: dict[Any, int] = {}
    for stage in range(last):
        found.setdefault((stage == 0, *layers_alike(job, stage)), stage)
    return [*found.values(), last]


def layers_alike(job: Job, stage: int) -> tuple[tuple[tuple[str, ...], int, int], ...]:
    """(parts, number of the first, how many) of each kind of layer of a stage, the numbers counted from the stage's first."""
    numbers = stage_layers(job, stage)
    return _alike(job.family, _Sizes(job.sizes), numbers.start, numbers.stop)


@functools.lru_cache(maxsize=1024)
def _alike(family: str, sizes: _Sizes, start: int, stop: int) -> tuple[tuple[tuple[str, ...], int, int], ...]:
    found: dict[tuple[str, ...], list[int]] = {}
    for number in range(start, stop):
        found.setdefault(layer_parts(family, sizes.sizes, number), []).append(number)
    return tuple((parts, alike[0] - start, len(alike)) for parts, alike in found.items())


def usage_of(job: Job, stage: int) -> Usage:
    """The usage of a GPU of one pipeline stage."""
    dense, expert = parameters_on(job, stage)
    weight, gradient, state = optimizer_states.bytes_a_parameter(
        job.precision, job.fp32_grad_reduce, job.sgd, job.bf16_moments
    )
    stored, layer = _activations(job, stage)
    last = stage == job.layout.pipeline - 1
    weights, gradients = weight * (dense + expert), gradient * (dense + expert)
    share = optimizer_share(job, dense, expert)
    optimizer = int(state * (1 - job.optimizer_offload) * share)  # offloading moves the fp32 weights too
    largest = job.vocabulary * job.sizes["hidden_size"] // job.layout.tensor
    return Usage(
        stage=stage,
        parameters=dense + expert,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=int(stored),
        logits=int(max(_logits(job) if last else 0, layer)),
        # the distributed optimizer's buffers, and the model's own weights until they are copied into them
        setup=weights + gradients + (weights if job.distributed_optimizer else 0),
        update=weights
        + gradients
        + optimizer
        + (int(optimizer_states.update_bytes(share, largest)) if job.bf16_moments else 0),
    )


def model_of(job: Job) -> parameters.Model:
    """Parameters of the whole model."""
    return _model(job.family, job.model_class, _Sizes(job.sizes), job.vocabulary)


@functools.lru_cache(maxsize=64)
def _model(family: str, model_class: str, sizes: _Sizes, vocabulary: int) -> parameters.Model:
    return parameters.count(family, model_class, sizes.sizes, vocabulary)


def stage_layers(job: Job, stage: int) -> range:
    """Numbers of the layers of a stage. With virtual stages their count is right, not which they are."""
    start = sum(job.stages[:stage])
    more = (job.sizes.get("mtp_num_layers") or 0) if stage == len(job.stages) - 1 else 0  # multi-token prediction
    return range(start, start + job.stages[stage] + more)


def parameters_on(job: Job, stage: int) -> tuple[int, int]:
    """(parameters outside experts, parameters of experts) on a GPU of a stage."""
    model, layout = model_of(job), job.layout
    numbers = stage_layers(job, stage)
    count = _sum_of(job.family, job.model_class, _Sizes(job.sizes), job.vocabulary, numbers.start, numbers.stop)
    first, last = stage == 0, stage == layout.pipeline - 1
    if first:
        count += model.embedding
    if last:
        count += model.final + model.output
        if not first and model.output.total == 0:  # the last stage holds its own copy of tied embeddings
            count += Count(sharded=job.vocabulary * job.sizes["hidden_size"])
    dense = count.sharded // layout.tensor + count.replicated
    return dense, count.expert // (layout.expert * (layout.expert_tensor or layout.tensor))


@functools.lru_cache(maxsize=1024)
def _sum_of(family: str, model_class: str, sizes: _Sizes, vocabulary: int, start: int, stop: int) -> Count:
    """Parameters of some of the layers."""
    return sum(_model(family, model_class, sizes, vocabulary).layers[start:stop], Count())


def optimizer_share(job: Job, dense: int, expert: int) -> float:
    """Parameters whose optimizer state is here: the distributed optimizer shards them over data and context ranks."""
    if not job.distributed_optimizer:
        return dense + expert
    layout = job.layout
    return dense / (layout.data * layout.context) + expert / max(1, layout.expert_data)


def tokens_of(job: Job) -> float:
    """Tokens of a micro batch on one rank."""
    return job.micro_batch * job.seq_length / job.layout.context


def _logits(job: Job) -> float:
    """The logits and, where the loss is fused, what the fused weight gradient hands to autograd in its place: a tensor of the matrix's size.

    In fp8 the most is in use before that: gradients of a chunk of tokens, transposed, and their product in fp32.
    """
    stand_in = _element(job) * job.sizes["hidden_size"] if job.cross_entropy == "te" else 0
    if job.fp8_output_layer:
        stand_in = min(FP8_CHUNK, tokens_of(job)) + 4 * job.sizes["hidden_size"]
    a_logit = _element(job) + LOGIT_BYTES[job.cross_entropy]
    return (a_logit * tokens_of(job) + stand_in) * job.vocabulary / job.layout.tensor


def _element(job: Job) -> int:
    """Bytes of a number of the forward pass."""
    return 4 if job.precision == "32" else 2


def _activations(job: Job, stage: int) -> tuple[float, float]:
    """(bytes kept for the backward passes in flight, bytes of the largest group of layers while it is worked on)."""
    tokens, layout = tokens_of(job), job.layout
    start = stage_layers(job, stage).start
    each = [
        size
        for _, first, alike in layers_alike(job, stage)
        for size in [tokens * activation_bytes(job, start + first)] * alike
    ]
    entry = _element(job) * tokens * job.sizes["hidden_size"] / (layout.tensor if layout.sequence_parallel else 1)
    kept, working = _kept(job, stage, each, entry)
    if job.offloaded_layers:
        kept = sum(sorted(each)[: max(0, len(each) - job.offloaded_layers)])
    in_flight = _in_flight(job, stage)
    ends = entry if stage == 0 else 0  # embedding
    ends += 3 * entry if stage == layout.pipeline - 1 else 0  # last norm, its input and output
    if job.score_matrices:  # of the layer at work, beside its probabilities: the scores and a gradient
        ends += 2 * tokens * _scores(job)
    return kept * in_flight + ends, working


def _kept(job: Job, stage: int, each: list[float], entry: float) -> tuple[float, float]:
    """(bytes kept of one micro batch, bytes of the group at work). `each` holds bytes per layer, `entry` its input's."""
    if not each:
        return 0.0, 0.0
    if job.recompute_granularity != "full":
        return sum(each), max(each)
    number = job.recompute_layers or 1
    if job.recompute_method == "uniform":
        groups = -(-len(each) // number)
        return groups * entry, sum(sorted(each)[-number:]) + max(each)
    recomputed = recomputed_of(job, stage)
    return recomputed * entry + sum(each[recomputed:]), max(each) * (2 if recomputed else 1)


def recomputed_of(job: Job, stage: int) -> int:
    """Layers of a stage that the method `block` recomputes: the first of each of its chunks."""
    layers = len(stage_layers(job, stage))
    return sum(min(job.recompute_layers or 1, chunk) for chunk in chunks_of(layers, job.layout.virtual_pipeline))


def _in_flight(job: Job, stage: int) -> float:
    """Micro batches whose activations a stage keeps at once, in units of all its layers (1F1B and interleaved)."""
    pipeline, virtual = job.layout.pipeline, job.layout.virtual_pipeline
    if pipeline == 1:
        return 1
    if virtual == 1:
        return min(pipeline - stage, job.micro_batches)
    chunks = (pipeline - stage - 1) * 2 + (virtual - 1) * pipeline + 1  # forward passes before the first backward
    layers = len(stage_layers(job, stage))
    each, larger = divmod(layers, virtual)  # the first `larger` chunks have a layer more
    # of an early chunk twice as many micro batches are under way at some time, when none of as many late ones are
    twice = min(larger, virtual // 2)
    more = pipeline * (2 * twice + max(0, min(larger, virtual - twice) - twice))
    return min((each * chunks + more) / layers, job.micro_batches)


def activation_bytes(job: Job, number: int) -> float:
    """Bytes per token that layer `number` keeps for its backward pass, on one rank."""
    kind = layer_parts(job.family, job.sizes, number)
    bytes_ = 0.0
    for part in kind:
        bytes_ += _PARTS[part](job) * _element(job) / 2  # the parts are counted in bf16
        if job.score_matrices and part == "attention":
            bytes_ += _scores(job)
    if job.sizes.get("hidden_dropout"):
        bytes_ += 2 * job.sizes["hidden_size"] / _sequence_split(job)  # two masks of a byte an element
    return bytes_


def _scores(job: Job) -> float:
    """Bytes per token of one layer's matrix of attention scores in fp32."""
    return float(4 * job.seq_length * job.sizes["num_attention_heads"] / job.layout.tensor)


def layer_parts(family: str, sizes: Mapping[str, Any], number: int) -> tuple[str, ...]:
    """The parts of a layer."""
    if family in ("ssm", "hyena"):
        letter = sizes["hybrid_override_pattern"][number]
        own = {"M": "mamba", "*": "attention", "-": "mlp"}.get(letter, "convolution")
        return (own, "mlp") if family == "hyena" else (own,)
    if family == "t5":
        return ("attention", "attention", "mlp") if number >= sizes["encoder_num_layers"] else ("attention", "mlp")
    attention = "latent attention" if sizes.get("multi_latent_attention") else "attention"
    number = min(number, sizes["num_layers"] - 1)  # layers for multi-token prediction are like the last
    return attention, "experts" if parameters.is_expert_layer(sizes, number) else "mlp"


def _sequence_split(job: Job) -> int:
    """Ranks that share what lies between the tensor parallel products."""
    return job.layout.tensor if job.layout.sequence_parallel else 1


def _product_input(job: Job) -> int:
    """Bytes an element of a matrix product's saved input."""
    return 1 if job.fp8 else 2


def _norm_bytes(job: Job) -> float:
    """A norm and the product that follows it: its input and its output, unless the norm is recomputed."""
    h, split = job.sizes["hidden_size"], _sequence_split(job)
    recomputed = job.recompute_granularity == "selective" and "layernorm" in job.recompute_modules
    return float((2 * h + (0 if recomputed else _product_input(job) * h)) / split)


def _attention_bytes(job: Job) -> float:
    """Queries, keys, values, and the output."""
    sizes = job.sizes
    heads, groups = sizes["num_attention_heads"], sizes["num_query_groups"] or sizes["num_attention_heads"]
    kept = 2 * (heads + 2 * groups) + _attention_output_bytes(job) * heads
    if sizes.get("qk_layernorm"):  # queries and keys before their norms
        kept += 2 * (heads + groups)
    return float(_norm_bytes(job) + kept * sizes["kv_channels"] / job.layout.tensor)


def _attention_output_bytes(job: Job) -> int:
    """Bytes an element of attention's output: its own for the backward pass, and in fp8 the next product's copy."""
    return 3 if job.fp8 else 2


def _latent_attention_bytes(job: Job) -> float:
    sizes = job.sizes
    heads, rope = sizes["num_attention_heads"], sizes["qk_pos_emb_head_dim"]
    low_rank = (sizes["q_lora_rank"] or 0) + sizes["kv_lora_rank"] + rope
    query, value = sizes["qk_head_dim"] + rope, sizes["v_head_dim"]
    expanded = heads * (2 * query + value)
    if job.recompute_granularity == "selective" and "mla_up_proj" in job.recompute_modules:
        expanded = 0
    kept = 2 * expanded + _attention_output_bytes(job) * heads * value
    return float(_norm_bytes(job) + 4 * low_rank + kept / job.layout.tensor)


def _gate(job: Job, width: float) -> float:
    """Input and output of the activation function of an MLP `width` wide.

    Where a gate is not one kernel, its two factors are kept too. performance.py takes one kernel for every SwiGLU.
    """
    sizes = job.sizes
    first = 2 if sizes["gated_linear_unit"] else 1
    one_kernel = sizes.get("bias_activation_fusion") or sizes.get("activation") == "silu"
    factors = 4 if sizes["gated_linear_unit"] and not one_kernel else 0
    return (2 * first + factors + _product_input(job)) * width


def _mlp_bytes(job: Job) -> float:
    return _norm_bytes(job) + _gate(job, job.sizes["ffn_hidden_size"]) / job.layout.tensor


def _expert_bytes(job: Job) -> float:
    """Tokens sorted by expert, the experts' MLP, their outputs before they are summed; evenly used experts."""
    sizes, layout = job.sizes, job.layout
    routed = sizes["moe_router_topk"] * (4 * sizes["hidden_size"] + _gate(job, sizes["moe_ffn_hidden_size"]))
    shared = _gate(job, sizes.get("moe_shared_expert_intermediate_size") or 0) / layout.tensor
    return float(_norm_bytes(job) + routed / (layout.expert_tensor or layout.tensor) + shared)


def _mamba_bytes(job: Job) -> float:
    """The input product's output and the scan's output; the fused kernel computes the rest again."""
    sizes = job.sizes
    heads = sizes.get("mamba_num_heads") or 2 * sizes["hidden_size"] // sizes["mamba_head_dim"]
    inner = heads * sizes["mamba_head_dim"]
    projected = 2 * inner + 2 * sizes["mamba_num_groups"] * sizes["mamba_state_dim"] + heads
    return float(_norm_bytes(job) + 2 * (projected + 2 * inner) / job.layout.tensor)


def _convolution_bytes(job: Job) -> float:
    """Hyena: three projections before and after the short convolution, the gated product, the output."""
    return float(_norm_bytes(job) + 2 * 8 * job.sizes["hidden_size"] / job.layout.tensor)


_PARTS = {
    "attention": _attention_bytes,
    "latent attention": _latent_attention_bytes,
    "mlp": _mlp_bytes,
    "experts": _expert_bytes,
    "mamba": _mamba_bytes,
    "convolution": _convolution_bytes,
}
