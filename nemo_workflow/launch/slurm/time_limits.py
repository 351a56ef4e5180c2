"""How long a cluster lets a job run: the limits of the partition, of the QOS and of the account, and what a plan asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from nemo_workflow.config.checks.slurm import seconds_of, slurm_arguments
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.corpus_plan import CorpusPlan

QOS_FIELDS = "name,maxwall,flags"
ENFORCING = ("limits", "safe", "all")  # words of AccountingStorageEnforce under which MaxWall counts


@dataclass(frozen=True)
class Limit:
    """`seconds` (infinite: none) that `owner`, such as "partition short", lets a job run; `text` is Slurm's form of it."""

    owner: str
    seconds: float = math.inf
    text: str = ""


@dataclass(frozen=True)
class Qos:
    """A quality of service."""

    wall: str = ""
    flags: str = ""


@dataclass(frozen=True)
class Limits:
    """What accounting says of time: every QOS by name, and of the user's association its MaxWall and default QOS."""

    qos: dict[str, Qos]
    wall: str = ""
    default_qos: str = ""

    def of_partition(self, plan: Plan | CorpusPlan, name: str, fields: dict[str, str]) -> Iterator[Limit]:
        """The limits that hold for the plan's job in a partition, whose fields are scontrol's."""
        own = plan.settings.qos or self.default_qos or "normal"
        if "PartitionTimeLimit" not in self.qos.get(own, Qos()).flags:
            yield _limit(f"partition {name}", fields.get("MaxTime", ""))
        order = [fields.get("QoS", ""), own]  # the first that sets a limit counts
        if "OverPartQOS" in self.qos.get(own, Qos()).flags:
            order.reverse()
        walls = [(f"QOS {name}", self.qos[name].wall) for name in order if name in self.qos]
        walls.append((f"account {plan.settings.account}", self.wall))
        yield from [_limit(owner, wall) for owner, wall in walls if wall][:1]


def read_limits(config: str, qos: str, association: dict[str, str]) -> Limits:
    """From `scontrol show config`, `sacctmgr show qos` in QOS_FIELDS and the row of the user's association."""
    enforced = re.search(r"(?m)^AccountingStorageEnforce\s*=\s*(\S+)", config)
    if not enforced or not set(enforced[1].split(",")) & set(ENFORCING):
        return Limits({})
    rows = [line.split("|") for line in qos.splitlines() if line.count("|") == QOS_FIELDS.count(",")]
    table = {name: Qos(wall, flags) for name, wall, flags in rows}
    return Limits(table, association.get("maxwall", ""), association.get("defaultqos", ""))


def problems(plan: Plan | CorpusPlan, limits: list[Limit]) -> Iterator[str]:
    """A time limit above what the partition gives: Slurm would take the job, and it would wait for ever."""
    asked = plan.settings.time
    if not asked:
        return
    least = slurm_arguments(plan.settings.slurm_arg).get("time_min") or asked  # Slurm may shorten the job to this
    seconds = seconds_of(str(least)) or math.inf  # 0 asks for no limit
    for limit in limits:
        if seconds > limit.seconds:
            yield (
                f"--time {asked}: {limit.owner} allows {limit.text}, and the job would wait for ever; lower --time, or choose"
                f" another {limit.owner.split()[0]}"
            )


def notes(plan: Plan | CorpusPlan, name: str, fields: dict[str, str], limits: list[Limit]) -> Iterator[str]:
    """Where no --time is given: that the partition's own limit leaves no time to train."""
    if plan.settings.time:
        return
    default = _limit(f"partition {name}", fields.get("DefaultTime", ""))
    shortest = min([default, *limits], key=lambda limit: limit.seconds)
    if shortest.seconds <= plan.settings.stop_before:
        yield (
            f"no --time is given, and {shortest.owner} gives a job {shortest.text}: not longer than the"
            f" {plan.settings.stop_before} s of --stop-before, so the run would be asked to stop as it starts; give a"
            " longer --time where it is allowed, or lower --stop-before"
        )


def _limit(owner: str, text: str) -> Limit:
    return Limit(owner, seconds_of(text) or math.inf, text) if re.fullmatch(r"[\d:-]+", text) else Limit(owner)
