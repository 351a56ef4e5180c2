"""What a run takes: its steps by step_time.py, its validations, saves and start.

A validation batch is a step's forward pass: a third of a step's work. A save stops the run while each GPU copies its part to
the host, and is written while the run goes on; the last one is waited for. The rates and the start are those of docs/performance.md
and benchmarks/multi_gpu.md. On a CPU: operations over a rate for each core.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nemo_workflow.config import auto_layout, layout_search, memory, optimizer_states, step_time
from nemo_workflow.config.card import PlannedCard
from nemo_workflow.config.memory import Job
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.config.settings import Settings
from nemo_workflow.models import flops
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.utils import machine

START_SECONDS = 55.0  # from the command to the first step's end, on a GPU
CPU_START_SECONDS = 20.0
DISK_RATE = 0.6e9  # bytes per second that a node writes to a disk; into memory 2e9 to 6.2e9 were seen
FIRST_TO_HOST = 2.2e9  # bytes per second of a GPU's part of a run's first checkpoint, for which host memory is pinned
TO_HOST = 28e9  # of any later one
WORTH = 0.02  # of a step's time: what a flag must bring to be named


def of_run(job: Job, card: PlannedCard, settings: Settings, schedule: Schedule, scale: float) -> dict[str, Any] | None:
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


def of_cpu_run(job: Job, schedule: Schedule, scale: float) -> dict[str, Any]:
    """The same for CPU ranks of this machine."""
    vocabulary = job.vocabulary
    work = flops.flops_a_token(job.family, job.sizes, vocabulary, job.seq_length) or 6.0 * memory.model_of(job).total
    tokens = job.micro_batch * job.micro_batches * job.layout.data * job.seq_length
    seconds = scale * tokens * work / machine.cpu_rate(job.precision)
    return {
        "gpu": None,
        "measured": False,
        "scale": scale,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "parts": {},
        "bound": "matrix products",
        "run_seconds": run_seconds(job, seconds, schedule, CPU_START_SECONDS),
    }


def run_seconds(job: Job, step: float, schedule: Schedule, start: float = START_SECONDS) -> float:
    """Seconds from the command to its end, for a step of `step` seconds."""
    validations = schedule.steps // schedule.val_check_interval if schedule.limit_val_batches else 0
    saves = -(-schedule.steps // schedule.save_every)
    size = optimizer_states.checkpoint_bytes(memory.model_of(job), job.precision, job.sgd)
    copies = size / job.layout.ranks * (min(saves, 1) / FIRST_TO_HOST + max(saves - 1, 0) / TO_HOST)
    write = size / job.layout.nodes / DISK_RATE
    return start + schedule.steps * step + validations * schedule.limit_val_batches * step / 3 + copies + write


def left_seconds(run: float, accelerator: str, share: float) -> float:
    """Seconds of a start that makes a share of a run's steps, where the whole run takes `run` seconds; 0 for none."""
    start = CPU_START_SECONDS if accelerator == "cpu" else START_SECONDS
    return start + share * (run - start) if share else 0.0


def helpful(plan: Plan, recipe: Recipe) -> dict[str, Any] | None:
    """The one flag that would save most of a step: its words, and the share of the step; None where none is worth it.

    fp8, which changes numbers, is named only where no other flag helps.
    """
    now, settings = memory.job_of(plan, recipe), plan.settings
    cluster = auto_layout.cluster_of(settings, plan.card) if plan.card else None
    if plan.card is None or cluster is None:
        return None
    limit = auto_layout.share_of(plan.card, plan.sizes)
    whole = layout_search.Problem(now, recipe, plan.vocab_size, settings.global_batch_size, limit, {})
    time = step_time.estimate(now, cluster).total
    found: list[tuple[float, str]] = []
    for name in layout_search.SPLITS:
        if (name == "recompute" and now.recompute_granularity is None) or (
            name == "stages" and now.layout.pipeline == 1
        ):
            continue
        fixed = {other: _value(now, other) for other in layout_search.SPLITS if other != name}
        problem = replace(whole, fixed={**fixed, "sequence_parallel": now.layout.sequence_parallel})
        for best in layout_search.best(problem, cluster, now.layout.nodes):
            found.append((1 - best.time.total / time, _flags(name, best.job)))
    gain, words = max(found, default=(0.0, ""))
    if gain <= WORTH and cluster.gpu.fp8 and not now.fp8 and now.precision == "bf16-mixed":
        fp8 = replace(now, fp8=True)
        gain, words = 1 - step_time.estimate(fp8, cluster).total / time, "--fp8"
        if memory.fullest(fp8).total > limit or memory.tokens_of(fp8) % 16:
            return None
    return {"words": words, "saves": gain} if gain > WORTH else None


def _value(job: Job, name: str) -> Any:
    if name == "micro_batch":
        return job.micro_batch
    if name == "stages":
        return job.layout.first_stage_layers, job.layout.last_stage_layers
    return None if name == "recompute" else getattr(job.layout, name)


def _flags(name: str, job: Job) -> str:
    layout = job.layout
    if name == "micro_batch":
        return f"-mbs {job.micro_batch}"
    if name == "recompute":
        if job.recompute_granularity is None:
            return "no recomputation"
        return f"--recompute-method {job.recompute_method} --recompute-num-layers {job.recompute_layers}"
    if name == "stages":
        ends = {"--first-stage-layers": layout.first_stage_layers, "--last-stage-layers": layout.last_stage_layers}
        return (
            " ".join(f"{flag} {layers}" for flag, layers in ends.items() if layers) or "stages with as many layers each"
        )
    short = {"tensor": "-TP", "pipeline": "-PP", "virtual_pipeline": "-VPP", "context": "-CP", "expert": "-EP"}[name]
    return f"{short} {getattr(layout, name)}" + (" -SP" if name == "tensor" and layout.sequence_parallel else "")
