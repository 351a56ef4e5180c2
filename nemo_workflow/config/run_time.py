"""What a run takes: its steps by step_time.py, its validations, saves and start.

A validation batch is a step's forward pass: a third of a step's work. A save stops the run while each GPU copies its part to
the host, and is written while the run goes on; the last one is waited for. Both rates and the start are those of docs/performance.md
and benchmarks/multi_gpu.md. On a CPU: operations over a rate for each core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nemo_workflow.config import auto_layout, layout_search, memory, step_time
from nemo_workflow.config.card import PlannedCard
from nemo_workflow.config.memory import Job
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.models import flops
from nemo_workflow.utils import machine

START_SECONDS = 55.0  # from the command to the first step's end, on a GPU
CPU_START_SECONDS = 20.0
DISK_RATE = 0.6e9  # bytes a second that a node writes: 16.1 GiB in 19 to 33 s
TO_HOST = 5e9  # bytes a second of a GPU's part of a checkpoint
CPU_RATE = 12e9  # operations a second and core: llama_tiny in bf16 on an AMD EPYC
WORTH = 0.02  # of a step's time: what a flag must bring to be named


def of_run(job: Job, card: PlannedCard, settings: Any, schedule: Schedule, scale: float) -> dict[str, Any] | None:
    """Plain values for plan.json; None for a GPU that is not in the table. Seconds, tokens per second, GPU hours."""
    cluster = auto_layout.cluster_of(settings, card, scale)
    if cluster is None:
        return None
    step = step_time.estimate(job, cluster)
    work = flops.flops_a_token(job.family, job.sizes, job.vocabulary, job.seq_length)
    run = run_seconds(job, step.total, schedule, START_SECONDS)
    return {
        "gpu": card.key,
        "measured": cluster.gpu.is_measured,
        "scale": scale,
        "step_seconds": step.total,
        "tokens_per_second": step.tokens_per_second * step.ranks,
        "tokens_per_second_per_gpu": step.tokens_per_second,
        "mfu": step.tokens_per_second * work / (cluster.gpu.bf16 * 1e12) if work else None,
        "parts": dict(step.parts),
        "bound": step.bound,
        "run_seconds": run,
        "gpu_hours": run * job.layout.ranks / 3600,
    }


def of_cpu_run(job: Job, schedule: Schedule) -> dict[str, Any]:
    """The same for CPU ranks of this machine."""
    vocabulary = job.vocabulary
    work = flops.flops_a_token(job.family, job.sizes, vocabulary, job.seq_length) or 6.0 * memory.model_of(job).total
    tokens = job.micro_batch * job.micro_batches * job.layout.data * job.seq_length
    seconds = tokens * work / (CPU_RATE * machine.facts()["cores"])
    return {
        "gpu": None,
        "measured": False,
        "scale": 1.0,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "parts": {},
        "bound": "matrix products",
        "run_seconds": run_seconds(job, seconds, schedule, CPU_START_SECONDS),
    }


def run_seconds(job: Job, step: float, schedule: Schedule, start: float = START_SECONDS) -> float:
    """Seconds from the command to its end, for a step of `step` seconds."""
    validations = schedule.max_steps // schedule.val_check_interval if schedule.limit_val_batches else 0
    saves = -(-schedule.max_steps // schedule.save_every)
    size = memory.checkpoint_bytes(memory.model_of(job), job.precision, job.sgd)
    copy, write = size / job.layout.ranks / TO_HOST, size / job.layout.nodes / DISK_RATE
    return (
        start + schedule.max_steps * step + validations * schedule.limit_val_batches * step / 3 + saves * copy + write
    )


def helpful(
    problem: layout_search.Problem, cluster: step_time.Cluster, now: Job, legal: Callable[[Job], bool]
) -> tuple[str, float] | None:
    """The one change of a split that saves most of a step, and what it saves (0 to 1); None where none is worth it."""
    time = step_time.estimate(now, cluster).total
    found: list[tuple[float, str]] = []
    for name in layout_search.SPLITS:
        fixed = {other: _value(now, other) for other in layout_search.SPLITS if other != name}
        fixed["sequence_parallel"] = now.layout.sequence_parallel
        if name == "recompute" and now.recompute_granularity is None:
            continue
        trial = _replace_fixed(problem, now, fixed, legal)
        best = layout_search.best(trial, cluster, now.layout.nodes)
        if best:
            found.append((1 - best[0].time.total / time, _flags(name, best[0].job)))
    gain, text = max(found, default=(0.0, ""))
    return (text, gain) if gain > WORTH else None


def _value(job: Job, name: str) -> Any:
    if name == "micro_batch":
        return job.micro_batch
    return None if name == "recompute" else getattr(job.layout, name)


def _replace_fixed(
    problem: layout_search.Problem, now: Job, fixed: dict[str, Any], legal: Callable[[Job], bool]
) -> layout_search.Problem:
    return replace(problem, base=now, fixed=fixed, legal=legal)


def _flags(name: str, job: Job) -> str:
    layout = job.layout
    if name == "micro_batch":
        return f"-mbs {job.micro_batch}"
    if name == "recompute":
        if job.recompute_granularity is None:
            return "no recomputation"
        return f"--recompute-method {job.recompute_method} --recompute-num-layers {job.recompute_layers}"
    short = {"tensor": "-TP", "pipeline": "-PP", "virtual_pipeline": "-VPP", "context": "-CP", "expert": "-EP"}[name]
    return f"{short} {getattr(layout, name)}" + (" -SP" if name == "tensor" and layout.sequence_parallel else "")
