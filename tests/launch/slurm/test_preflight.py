"""What is made of the cluster's answers before a job is submitted; the answers are stood in for."""

from __future__ import annotations

import dataclasses
import os
import pwd

import pytest

from nemo_workflow.launch.slurm import preflight
from nemo_workflow.launch.slurm.cluster import Answer, Cluster
from nemo_workflow.utils.errors import Refusal
from tests.launch.slurm import plans

PARTITIONS = {
    "batch": "State=UP MaxNodes=2",
    "down": "State=DOWN",
    "closed": "State=UP AllowAccounts=others",
    "odd": "State=UP",
}
NODES = {
    "batch": ["n1|idle|gpu:8|4", "n2|mixed|gpu:8|4"],
    "down": ["n3|idle|gpu:8|4"],
    "closed": ["n1|idle|gpu:2|4"],
    "odd": ["n1|maint|gpu:8|4", "n2|idle~|gpu:8|4", "n3|down~|gpu:8|4", "n4|draining@|gpu:8|4"],
}
ENFORCED = "associations,limits"
QOS = "normal||\nbrief|00:05:00|\nfree||PartitionTimeLimit\n"
GREETING = "Welcome to the cluster | today: 3 | maintenance=tomorrow\n"  # of a site's wrapper, or of a login shell


def ask(self: Cluster, *words: str, **_: object) -> Answer:
    match words:
        case ("scontrol", "show", "partition", _, name):
            text = PARTITIONS.get(name)
            return Answer(0, f"{GREETING}PartitionName={name} {text}\n", "") if text else Answer(1, "", "not found")
        case ("sinfo", "-h", "-N", "-p", name, *_):
            return Answer(0, GREETING + "".join(f"{preflight.ROW}{row}\n" for row in NODES.get(name, [])), "")
        case ("sinfo", *_):
            return Answer(0, GREETING + "".join(f"{preflight.ROW}{name}\n" for name in PARTITIONS), "")
        case ("scontrol", "show", "config"):
            return Answer(0, f"{GREETING}AccountingStorageEnforce = {ENFORCED}\n", "")
        case ("sacctmgr", "-n", "-P", "show", "qos", *_):
            return Answer(0, f"{GREETING}{QOS}", "")
        case ("sacctmgr", *_):
            return Answer(0, f"{GREETING}a1|batch|normal,brief,free||\n", "")
    return Answer(0, "", "")


def checked(partition: str, variant: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> list[str]:
    """The notes on a plan."""
    monkeypatch.setattr(Cluster, "ask", ask)
    plan = plans.plan(variant)
    plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, partition=partition, **settings))
    return preflight.check(Cluster(), plan)


def refused(partition: str, variant: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> list[str]:
    try:
        checked(partition, variant, monkeypatch, **settings)
    except Refusal as refusal:
        return [problem.split(";")[0] for problem in refusal.problems]
    return []


@pytest.mark.parametrize("partition", ["batch", "batch,down", "closed,batch"])
def test_one_partition_of_several_that_takes_the_job_is_enough(partition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(partition, "two_nodes", monkeypatch) == []


def test_what_stands_against_each_of_several_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("batch,nope", "two_nodes", monkeypatch) == ["--partition nope: no such partition on this cluster"]
    assert refused("closed,down", "two_nodes", monkeypatch) == [
        "--num-nodes 2: partition closed has 1 usable node",
        "--account a1: partition closed admits only others",
        "--partition down: its state is DOWN",
        "--partition closed,down: account a1 may use only batch",
    ]


def test_nodes_that_come_back_by_themselves_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in maintenance, in which a reservation may run, and one that is powered down; not one down or draining."""
    allowed = "--partition odd: account a1 may use only batch"
    assert refused("odd", "two_nodes", monkeypatch) == [allowed]
    monkeypatch.setitem(NODES, "odd", NODES["odd"][1:])
    assert refused("odd", "two_nodes", monkeypatch) == ["--num-nodes 2: partition odd has 1 usable node", allowed]


@pytest.mark.parametrize(
    ("partition", "settings", "problem"),
    [
        ("MaxTime=00:03:00", {"time": "1:00:00"}, "--time 1:00:00: partition batch allows 00:03:00"),
        ("MaxTime=00:03:00", {"time": "0"}, "--time 0: partition batch allows 00:03:00"),
        ("MaxTime=1-00:00:00", {"time": "1-1"}, "--time 1-1: partition batch allows 1-00:00:00"),
        ("MaxTime=1-00:00:00", {"time": "24:00:00"}, ""),
        ("MaxTime=UNLIMITED", {"time": "100-0"}, ""),
        ("MaxTime=00:03:00", {"time": "1:00:00", "qos": "free"}, ""),
        ("MaxTime=00:10:00", {"time": "1:00:00", "slurm_arg": ["time-min=10"]}, ""),
        ("MaxTime=UNLIMITED", {"time": "10", "qos": "brief"}, "--time 10: QOS brief allows 00:05:00"),
        ("MaxTime=UNLIMITED QoS=brief", {"time": "10"}, "--time 10: QOS brief allows 00:05:00"),
        ("MaxTime=UNLIMITED QoS=N/A", {"time": "10"}, ""),
    ],
)
def test_a_time_limit_above_what_the_cluster_gives_is_refused(
    partition: str, settings: dict[str, object], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm takes such a job, and it waits for ever."""
    monkeypatch.setitem(PARTITIONS, "batch", f"State=UP {partition}")
    found = refused("batch", "two_nodes", monkeypatch, **settings)
    assert [one.removesuffix(", and the job would wait for ever") for one in found] == ([problem] if problem else [])


def test_limits_that_slurm_does_not_enforce_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ENFORCED", "associations")
    assert refused("batch", "two_nodes", monkeypatch, time="10", qos="brief") == []


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ("DefaultTime=00:03:00 MaxTime=1-00:00:00", "partition batch gives a job 00:03:00"),
        ("DefaultTime=NONE MaxTime=00:05:00", "partition batch gives a job 00:05:00"),
        ("DefaultTime=00:20:00 MaxTime=1-00:00:00", ""),
        ("DefaultTime=NONE MaxTime=UNLIMITED", ""),
    ],
)
def test_a_partition_whose_own_limit_leaves_no_time_is_told(
    partition: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTITIONS, "batch", f"State=UP {partition}")
    notes = [note for note in checked("batch", "two_nodes", monkeypatch, time=None) if "no --time" in note]
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def test_the_users_name_is_the_uids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says; a container's user may have none, and is asked nothing about."""
    asked: list[str] = []

    def listen(self: Cluster, *words: str, **more: object) -> Answer:
        asked.extend(word for word in words if word.startswith("user="))
        return ask(self, *words, **more)

    monkeypatch.setenv("USER", "alice")
    monkeypatch.setenv("LOGNAME", "alice")
    plan = plans.plan("two_nodes")
    monkeypatch.setattr(Cluster, "ask", listen)
    preflight.check(Cluster(), plan)
    assert asked == [f"user={pwd.getpwuid(os.geteuid()).pw_name}"]
    monkeypatch.setattr("os.geteuid", lambda: 2_000_000_017)
    preflight.check(Cluster(), plan)
    assert len(asked) == 1
