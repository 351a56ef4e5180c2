"""What is made of the cluster's answers before a job is submitted; the answers are stood in for."""

from __future__ import annotations

import dataclasses

import pytest

from nemo_workflow.launch.slurm import preflight
from nemo_workflow.launch.slurm.cluster import Answer, Cluster
from nemo_workflow.utils.errors import Refusal
from tests.slurm import plans

PARTITIONS = {"batch": "State=UP MaxNodes=2", "down": "State=DOWN", "closed": "State=UP AllowAccounts=others"}
NODES = {"batch": "n1|idle|gpu:8|4\nn2|mixed|gpu:8|4\n", "down": "n3|idle|gpu:8|4\n", "closed": "n1|idle|gpu:2|4\n"}


def ask(self: Cluster, *words: str, **_: object) -> Answer:
    match words:
        case ("scontrol", "show", "partition", _, name):
            text = PARTITIONS.get(name)
            return Answer(0, f"PartitionName={name} {text}\n", "") if text else Answer(1, "", "not found")
        case ("sinfo", "-h", "-N", "-p", name, *_):
            return Answer(0, NODES.get(name, ""), "")
        case ("sinfo", *_):
            return Answer(0, "".join(f"{name}\n" for name in PARTITIONS), "")
        case ("scontrol", "show", "config"):
            return Answer(0, "AccountingStorageEnforce = associations\n", "")
        case ("sacctmgr", *_):
            return Answer(0, "a1|batch|\n", "")
    return Answer(0, "", "")


def refused(partition: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(Cluster, "ask", ask)
    plan = plans.plan(variant)
    plan = dataclasses.replace(plan, settings=plan.settings | {"partition": partition})
    try:
        preflight.check(Cluster(), plan)
    except Refusal as refusal:
        return [problem.split(";")[0] for problem in refusal.problems]
    return []


@pytest.mark.parametrize("partition", ["batch", "batch,down", "closed,batch"])
def test_one_partition_of_several_that_takes_the_job_is_enough(partition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(partition, "two_nodes", monkeypatch) == []


def test_what_stands_against_each_of_several_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("batch,nope", "two_nodes", monkeypatch) == ["--partition nope: no such partition on this cluster"]
    assert refused("closed,down", "two_nodes", monkeypatch) == [
        "--num-nodes 2: partition closed has 1 usable nodes",
        "--account a1: partition closed admits only others",
        "--partition down: its state is DOWN",
        "--partition closed,down: account a1 may use only batch",
    ]
