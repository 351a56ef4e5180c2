"""Seconds of a training step, worked out from sizes, layout and GPU alone.

- A stage's micro batch takes what its kernels take (kernel_time.py), or what the host needs to start them where that is
  more. Recomputed layers run forward again in the backward pass (Korthikanti et al., arXiv 2205.05198).
- Pipeline: with m micro batches, the slowest stage's m of them, and once those of the other stages, divided by the virtual
  stages (Narayanan et al., Megatron-LM 2, arXiv 2104.04473, section 2.2).
- Data parallelism (ZeRO, arXiv 1910.02054): gradients are reduce-scattered while the last backward pass runs, weights
  gathered while the first forward pass runs; what is longer than those shows, and of the rest a share, for its kernels
  take multiprocessors.
- Optimizer: bytes read and written over the memory's bandwidth; on the host at the rate that its Adam was seen to do.
- Ranks wait for the slowest of them at each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_workflow.config import kernel_time, memory
from nemo_workflow.config.kernel_time import RATES, Both, Device, Links, Rates
from nemo_workflow.config.memory import Job
from nemo_workflow.utils.gpus import Gpu

BF16_MOMENTS = 32  # a parameter more: two moments to fp32 copies and back, each over a tensor between (FusedAdam 2.9)
OPTIMIZER_BYTES = 40  # a parameter: gradient, fp32 weight, two moments read, three written; bf16 weight; norm; zeroing
SLOWEST = 0.012  # of a step, that several GPUs wait for the slowest: four H200s were 1.1 % apart from their mean
CONTENTION = 0.3  # of a hidden transfer's time, that computing loses to it
STEP_HOST = 20e-3  # seconds of a step in which no kernel runs: the gradients' norm is read on the host
HOST_ADAM = 2.4e9  # parameters per second of Adam on the host
HOST_SHARE = 0.6  # of PCIe's rate, in both directions while a step runs
P2P = 60e-6  # seconds that a stage waits for one transfer from another, beside its bytes


@dataclass(frozen=True)
class Cluster:
    """Where a run is to be: its GPUs, and what was learned from runs there."""

    gpu: Gpu
    gpus_per_node: int
    network: float | None = (
        None  # GB/s per GPU in one direction between nodes; None: as the GPU's clusters usually have it
    )
    flash_4: bool = True
    scale: float = 1.0  # seen over planned time, from --calibrate
    rates: Rates = field(default=RATES)
    tensor_beside: bool = (
        False  # tensor parallel transfers run beside products, as in NVIDIA's own runs; in ours they don't
    )


@dataclass(frozen=True)
class StepTime:
    """A step's seconds, by what they go to. `parts` adds up to `total`."""

    total: float
    parts: Mapping[str, float]
    tokens: float  # a step, all ranks
    ranks: int

    @property
    def tokens_per_second(self) -> float:
        """Per GPU."""
        return self.tokens / self.total / self.ranks

    @property
    def bound(self) -> str:
        """The largest part."""
        return max(self.parts, key=lambda name: self.parts[name])


Memo = dict[Any, Both]  # what layers take, by all that a search changes of them


def estimate(
    job: Job, cluster: Cluster, fused: bool = True, in_parts: bool = False, memo: Memo | None = None
) -> StepTime:
    """Time of a step. `fused` False is NeMo's stock recipe; `in_parts` one whose SwiGLU and rotary embedding are not fused.

    A search hands the same `memo` to each of its calls: layouts that differ in their pipeline have the same layers.
    """
    layout, rates = job.layout, cluster.rates
    shows = CONTENTION if cluster.tensor_beside else 1.0
    device = Device(cluster.gpu, links(job, cluster), cluster.flash_4, fused, in_parts, rates, shows)
    stages = _stages(job, device, {} if memo is None else memo)
    slowest = max(stages, key=lambda stage: stage.seconds)
    filling = (sum(stage.seconds for stage in stages) - slowest.seconds) / layout.virtual_pipeline
    parts = {name: value * job.micro_batches for name, value in slowest.parts.items()}
    parts["host"] += slowest.first
    parts["bubble"] = filling
    parts["pipeline transfers"] = _stage_transfers(job, cluster)
    parts["optimizer"], parts["gradients"] = _optimizer(job, cluster, device, slowest)
    parts["step's ends"] = STEP_HOST
    total = sum(parts.values())
    if layout.ranks > 1:
        parts["waiting for the slowest"] = SLOWEST * total
        total *= 1 + SLOWEST
    parts = {name: value * cluster.scale for name, value in parts.items() if value}
    tokens = job.micro_batch * job.micro_batches * layout.data * job.seq_length
    return StepTime(total * cluster.scale, parts, tokens, layout.ranks)


@dataclass(frozen=True)
class _Stage:
    seconds: float
    parts: Mapping[str, float]
    forward: float
    backward: float
    first: float  # seconds that the step's first micro batch takes longer


def _stages(job: Job, device: Device, memo: Memo) -> list[_Stage]:
    """Every stage; those that are alike are worked out once."""
    found: dict[Any, _Stage] = {}
    stages = []
    for number in range(job.layout.pipeline):
        key = (number == 0, number == job.layout.pipeline - 1, memory.layers_alike(job, number))
        if key not in found:
            found[key] = _stage(job, device, number, memo)
        stages.append(found[key])
    return stages


def _stage(job: Job, device: Device, stage: int, memo: Memo) -> _Stage:
    """One micro batch on a stage's rank."""
    numbers = memory.stage_layers(job, stage)
    first, last = stage == 0, stage == job.layout.pipeline - 1
    layers = Both()
    for parts_of_layer, start, times in memory.layers_alike(job, stage):
        layout = job.layout
        key = (parts_of_layer, layout.tensor, layout.sequence_parallel, layout.context, layout.expert, job.micro_batch)
        if key not in memo:
            memo[key] = kernel_time.layer(job, device, numbers[start])
        layers += memo[key] * times
    ends = kernel_time.ends(job, device, first, last)
    again = layers.forward * _recomputed_share(job, stage)
    run = layers + ends
    forward, backward = run.forward, run.backward + again
    offload = _offload_seconds(job, device, numbers)
    gpu_forward, gpu_backward = max(forward.gpu, offload), max(backward.gpu, offload)
    gpu = gpu_forward + gpu_backward
    host = forward.host + backward.host + device.rates.host_micro_batch
    parts = dict(
        zip(
            (
                "matrix products",
                "attention",
                "element-wise kernels",
                "tensor parallel transfers",
                "context parallel transfers",
                "expert parallel transfers",
            ),
            (run.forward + run.backward).values,
            strict=False,
        )
    )
    parts["recompute"] = again.gpu
    parts["offloading"] = gpu - forward.gpu - backward.gpu
    parts["host"] = max(0.0, host - gpu)
    first_host = host + (len(numbers) * device.rates.host_fp8_first if job.fp8 else 0)
    return _Stage(max(gpu, host), parts, gpu_forward, gpu_backward, max(0.0, first_host - max(gpu, host)))


def _recomputed_share(job: Job, stage: int) -> float:
    """Share of a stage's layers that run forward once more."""
    layers = len(memory.stage_layers(job, stage))
    if job.recompute_granularity != "full" or not layers:
        return 0.0
    if job.recompute_method == "block":
        return memory.recomputed_of(job, stage) / layers
    return 1.0


def _offload_seconds(job: Job, device: Device, numbers: range) -> float:
    """Time of moving the offloaded layers' activations one way."""
    if not job.offloaded_layers:
        return 0.0
    size = memory.tokens_of(job) * memory.activation_bytes(job, numbers[0])
    return min(job.offloaded_layers, len(numbers)) * size / (device.gpu.host * 1e9 * HOST_SHARE)


def _optimizer(job: Job, cluster: Cluster, device: Device, stage: _Stage) -> tuple[float, float]:
    """(optimizer's own time, time of gradients and weights between data parallel ranks that is not hidden)."""
    dense, expert = max((memory.parameters_on(job, number) for number in (0, job.layout.pipeline - 1)), key=sum)
    mine = memory.optimizer_share(job, dense, expert)
    here = (
        mine
        * (OPTIMIZER_BYTES + (BF16_MOMENTS if job.bf16_moments else 0))
        * (1 - job.optimizer_offload)
        / device.bytes_a_second
    )
    away = mine * job.optimizer_offload / HOST_ADAM
    ranks = job.layout.data * job.layout.context
    if ranks == 1:
        return here + away, 0.0
    link = _group_link(cluster, job.layout.tensor, ranks)
    moved = (ranks - 1) / ranks * (dense + expert)
    gradients, weights = moved * (4 if job.fp32_grad_reduce else 2) / link, moved * 2 / link
    if not job.distributed_optimizer:
        gradients, weights = 2 * gradients, 0.0
    shows = max(0.0, gradients - 0.9 * stage.backward) + max(0.0, weights - 0.9 * stage.forward)
    hidden = gradients + weights - shows
    return here + away, shows + CONTENTION * hidden


def _stage_transfers(job: Job, cluster: Cluster) -> float:
    """What stages wait for each other's activations; with virtual stages the transfers run beside the computing."""
    layout = job.layout
    if layout.pipeline == 1:
        return 0.0
    size = 2 * memory.tokens_of(job) * job.sizes["hidden_size"] / (layout.tensor if layout.sequence_parallel else 1)
    link = _group_link(cluster, layout.tensor * layout.context * layout.data, layout.pipeline, ring=False)
    each = P2P + (size / link if layout.virtual_pipeline == 1 else 0)
    return 2 * each * job.micro_batches * layout.virtual_pipeline


def links(job: Job, cluster: Cluster) -> Links:
    """Rates of the groups. Megatron numbers ranks tensor, context, data, pipeline, from the inside out."""
    layout = job.layout
    return Links(
        tensor=_group_link(cluster, 1, layout.tensor),
        context=_group_link(cluster, layout.tensor, layout.context, ring=False),
        expert=_group_link(cluster, layout.expert_tensor or layout.tensor, layout.expert, ring=False),
    )


def _group_link(cluster: Cluster, stride: int, ranks: int, ring: bool = True) -> float:
    """Bytes a second of a rank in a group of `ranks`, `stride` apart.

    A ring that crosses nodes leaves each of them once, over the network cards of all its ranks there.
    """
    gpu, rates = cluster.gpu, cluster.rates
    share = rates.nvlink_share if gpu.link > 64 else rates.pcie_share
    inside = gpu.link * 1e9 * share
    if stride * ranks <= cluster.gpus_per_node:
        return inside
    network = (cluster.network or gpu.network) * 1e9 * rates.network_share
    beside = max(1, min(ranks, cluster.gpus_per_node // stride)) if ring else 1
    return min(inside, network * beside)
