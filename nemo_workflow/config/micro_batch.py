"""The micro batch size of a GPU run that leaves it to us: unset on this machine's GPUs, or `auto`.

The memory plan chooses the largest that fits, with a margin, since a run's memory is set by its first two steps (the
optimizer's state is there from then on) and each later step takes the same. Those two steps are the trial: a run that
runs out of memory before the third starts over with the next smaller size. A size that was given is never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_workflow.config import memory
from nemo_workflow.config.flags import AUTO
from nemo_workflow.config.plan import Plan
from nemo_workflow.models import catalog

SHARE = 0.93  # of the GPU's memory that the plan may fill; its formula is within 1 % of what tensors took, and the allocator holds more than that
SHARE_OF_EXPERTS = 0.75  # the plan counts experts as evenly used
ENOUGH_TOKENS = 65_536  # a rank's matrix products gain nothing from more at once
WORK_A_STAGE = 4  # micro batches a pipeline stage that a step must keep, or its bubble grows
TRIAL_STEPS = 2


def is_ours(settings: Any, accelerator: str) -> bool:
    """Whether the size is ours to choose. A Slurm cluster's GPUs are not known here: there it must be asked for."""
    if settings.micro_batch_size is AUTO:
        return True
    given = settings.given
    unset = "micro_batch_size" not in given
    return accelerator == "gpu" and unset and bool(settings.executor == "local" or {"gpu", "gpu_memory"} & given)


def chosen(plan: Plan) -> Plan:
    """The plan with the largest size that fits, and a note of it. On a CPU `auto` is 1: there memory is not counted."""
    if plan.card is None:
        return plan
    limit = plan.card.memory * _share(plan)
    size = next((n for n in sizes(plan) if planned(plan, n) <= limit), 1)
    note = f"micro batch size {size}: chosen by the memory plan for the {plan.card}; -mbs N sets another"
    return with_size(plan, size, note)


def smaller_after_failure(plan: Plan, attempt: Path, happened: Iterable[dict[str, Any]]) -> Plan | None:
    """The plan with the next smaller size if a start ran out of memory in its trial steps, else None.

    `happened` are the events of this start alone: it may have failed before it wrote any.
    """
    ours = "micro_batch_size" not in plan.given
    errors = [path.read_text(encoding="utf-8", errors="replace") for path in attempt.glob("rank*.error")]
    if not ours or not any("OutOfMemoryError" in text for text in errors):
        return None
    steps = sum(event["event"] == "step" for event in happened)
    now = plan.settings.micro_batch_size
    size = next((n for n in sizes(plan) if n < now), None)
    if steps > TRIAL_STEPS or size is None:
        return None
    return with_size(plan, size, f"micro batch size {now} ran out of memory; starting over with {size}")


def with_size(plan: Plan, size: int, note: str) -> Plan:
    """The plan with another micro batch size that is not the user's."""
    return replace(
        plan,
        settings=replace(plan.settings, micro_batch_size=size),
        given=tuple(name for name in plan.given if name != "micro_batch_size"),
        notes=(*plan.notes, note),
    )


def sizes(plan: Plan) -> Iterator[int]:
    """Sizes that divide a rank's share of the batch, largest first, none larger than is of use."""
    share = plan.settings.global_batch_size // plan.layout.data
    least_work = WORK_A_STAGE * plan.layout.pipeline if plan.layout.pipeline > 1 else 1
    most = max(1, ENOUGH_TOKENS * plan.layout.context // plan.seq_length)
    for size in range(min(share, most), 0, -1):
        if share % size == 0 and (size == 1 or share // size >= least_work):
            yield size


def planned(plan: Plan, size: int) -> int:
    """Bytes on the fullest GPU with a micro batch of `size`."""
    trial = replace(plan, settings=replace(plan.settings, micro_batch_size=size))
    return memory.fullest(memory.job_of(trial, catalog.find(plan.model_name))).total


def _share(plan: Plan) -> float:
    return SHARE_OF_EXPERTS if plan.sizes.get("num_moe_experts") else SHARE
