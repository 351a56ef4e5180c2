"""What the cluster says before a job is submitted: seconds, and every problem at once."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nemo_workflow.config import containers
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.corpus_plan import CorpusPlan
from nemo_workflow.launch.slurm import login, time_limits
from nemo_workflow.launch.slurm.cluster import Answer, Cluster
from nemo_workflow.launch.slurm.time_limits import QOS_FIELDS, Limits, read_limits
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.machine import user_name

# states of a node that takes no job before somebody repairs it; one in maintenance, booting or powered down will by itself
UNUSABLE = ("down", "drain", "drained", "draining", "fail", "failing", "error", "unknown", "inval", "future")
STATE_MARKS = "*~#!%$@^+-"  # that sinfo adds to a state: not responding, powered down, powering up …
ROW = "node_or_partition|"  # before what we ask for: a site's wrapper or a login shell may print lines of its own


def check(cluster: Cluster, plan: Plan | CorpusPlan) -> list[str]:
    """Ask the cluster about the plan; returns notes for the user. Raises Refusal with every problem."""
    where = plan.settings.ssh or "this machine"
    if cluster.host:
        _reachable(cluster.host)
    found = cluster.ask("sbatch", "--version")
    if not found.ok:
        if cluster.host:
            raise Refusal(f"--ssh {cluster.host}: sbatch can't be run there: {found.reason}")
        raise Refusal(
            f"--executor slurm: sbatch can't be run on this machine ({found.reason}); use a login node, or --ssh HOST"
        )
    with ThreadPoolExecutor(8) as pool:  # each question waits for the network
        names = plan.settings.partition.split(",")
        shown = [pool.submit(cluster.ask, "scontrol", "show", "partition", "--oneliner", name) for name in names]
        nodes = [pool.submit(cluster.ask, "sinfo", "-h", "-N", "-p", name, "-o", ROW + "%N|%T|%G|%c") for name in names]
        listed = pool.submit(cluster.ask, "sinfo", "-h", "-o", ROW + "%R")
        config = pool.submit(cluster.ask, "scontrol", "show", "config")
        associations = pool.submit(_associations, cluster)
        qos = pool.submit(cluster.ask, "sacctmgr", "-n", "-P", "show", "qos", f"format={QOS_FIELDS}")
        accounting = pool.submit(cluster.keeps_accounts)
        help_text = pool.submit(cluster.ask, "srun", "--help")
        same_folder = pool.submit(cluster.ask, "test", "-d", _existing(plan))
        rsync = pool.submit(cluster.ask, "rsync", "--version")
    if not config.result().ok:
        raise Refusal(f"--executor slurm: the Slurm controller of {where} does not answer: {config.result().reason}")
    answers = {name: (one.result(), two.result()) for name, one, two in zip(names, shown, nodes, strict=True)}
    mine = _own(plan, associations.result() or [])
    limits = read_limits(config.result().out, qos.result().out, mine[0] if mine else {})
    problems = _partitions(plan, answers, listed.result(), limits)
    problems += _account(plan, config.result().out, associations.result())
    runtime = containers.runtime(plan.settings)
    if runtime == containers.PYXIS and "--container-image" not in help_text.result().out:
        problems.append(
            "--container-image: this cluster's srun has no such option (the pyxis plugin is missing); use Apptainer with"
            " --container-runtime apptainer, or run in this Python environment on a disk that the nodes share: --no-container"
        )
    if runtime == containers.APPTAINER:
        problems += _no_image(cluster, plan)
    if cluster.host and not same_folder.result().ok:
        problems.append(
            f"--ssh {cluster.host}: {_existing(plan)} is not there; --output-dir, the data and this Python environment"
            " must lie under the same paths here and on the cluster"
        )
    if cluster.host and not rsync.result().ok:
        problems.append(f"--ssh {cluster.host}: rsync is not installed there, and nemo_run copies its files with it")
    if problems:
        raise Refusal(problems)
    notes = [] if accounting.result() else ["sacct does not answer here: the job is followed with scontrol"]
    if runtime == containers.APPTAINER:
        notes += _apptainer_notes(cluster, plan)
    for name, (partition, _) in answers.items():
        fields = _fields(partition.out)
        notes += time_limits.notes(plan, name, fields, list(limits.of_partition(plan, name, fields)))
    return notes


def _no_image(cluster: Cluster, plan: Plan | CorpusPlan) -> Iterator[str]:
    """Whether the image's file is where the nodes look for it."""
    image = containers.apptainer_image(plan.settings)
    if image.source is None and not cluster.ask("test", "-e", image.path).ok:
        yield (
            f"--container-image {plan.settings.container_image}: {image.path} is not there; `apptainer build {shlex.quote(str(image.path))}"
            " docker://IMAGE` makes it, or name a registry's image as docker://IMAGE"
        )


def _apptainer_notes(cluster: Cluster, plan: Plan | CorpusPlan) -> Iterator[str]:
    """What the job will need on its first node that can't be seen from here."""
    image = containers.apptainer_image(plan.settings)
    if image.source and not cluster.ask("test", "-e", image.path).ok:
        yield (
            f"{image.source} is pulled to {image.path} as the job starts, which needs a network on its first node; where there"
            f" is none, pull it here first: apptainer pull {image.path} {image.source}"
        )
    found = any(cluster.ask(program, "--version").ok for program in ("apptainer", "singularity"))
    if not found and not plan.settings.setup_file:
        yield (
            "apptainer is not on this machine's PATH; where the nodes have it as a module only, load that in --setup-file"
            " (`module load apptainer`)"
        )


def _reachable(address: str) -> None:
    """Raise Refusal unless this machine can log in by itself and has what nemo_run needs for it."""
    login.resolve(address)
    if not shutil.which("rsync"):
        raise Refusal(f"--ssh {address}: rsync is not installed on this machine, and nemo_run copies its files with it")
    answer = Cluster(address).ask("true")
    if not answer.ok:
        raise Refusal(
            f"--ssh {address}: ssh can't log in there without a question: {answer.reason}; it needs a key (or an agent)"
            " and a known host: try `ssh` by hand first"
        )


def test_script(cluster: Cluster, script: str) -> None:
    """Let Slurm judge the very script without submitting it; raises Refusal with Slurm's words."""
    answer = cluster.ask("sbatch", "--test-only", text=script, seconds=60)
    if not answer.ok:
        raise Refusal(f"Slurm refuses the job: {answer.reason.removeprefix('allocation failure: ')}{_hint(answer)}")


def _hint(answer: Answer) -> str:
    hints = {
        "account": "; see -A/--account and -P/--partition",
        "node configuration": "; see -N/--num-nodes, -G/--num-gpus, --mem and --constraint",
        "time limit": "; see --time",
        "qos": "; see --qos",
        "reservation": "; see --reservation",
        "node name": "; see --nodelist",
        "feature": "; see --constraint",
        "option": "; see --slurm-arg",
        "dependency": "; see --dependency",
        "memory": "; see --mem",
    }
    text = answer.reason.lower()
    return next((hint for word, hint in hints.items() if word in text), "")


def _existing(plan: Plan | CorpusPlan) -> str:
    """The nearest existing folder above the run's."""
    folder = plan.folder
    while not folder.is_dir():
        folder = folder.parent
    return str(folder)


def _partitions(
    plan: Plan | CorpusPlan, answers: dict[str, tuple[Answer, Answer]], listed: Answer, limits: Limits
) -> list[str]:
    """What stands against the partitions asked for, with the answers on each and its nodes.

    All must exist, and one that takes the job is enough: Slurm chooses among them.
    """
    names = ", ".join(dict.fromkeys(name for (name,) in _rows(listed.out, 1)))
    there = f"; there are: {names}" if names else ""
    unknown = [name for name, (shown, _) in answers.items() if not shown.ok or "PartitionName=" not in shown.out]
    if unknown:
        return [f"--partition {name}: no such partition on this cluster{there}" for name in unknown]
    problems = []
    for name, (shown, nodes) in answers.items():
        fields = _fields(shown.out)
        against = list(_partition(plan, name, fields, names)) or list(_nodes(plan, name, nodes))
        against += _admission(plan, name, fields)
        against += time_limits.problems(plan, list(limits.of_partition(plan, name, fields)))
        if not against:
            return []
        problems += against
    return problems


def _partition(plan: Plan | CorpusPlan, name: str, fields: dict[str, str], names: str) -> Iterator[str]:
    if fields.get("State", "UP") != "UP":
        yield f"--partition {name}: its state is {fields['State']}; choose another, there are: {names}"
    most = fields.get("MaxNodes", "")
    if most.isdigit() and plan.layout.nodes > int(most):
        yield f"--num-nodes {plan.layout.nodes}: partition {name} allows {counted(int(most), 'node')} per job"


def _admission(plan: Plan | CorpusPlan, name: str, fields: dict[str, str]) -> Iterator[str]:
    account = plan.settings.account
    allowed, denied = fields.get("AllowAccounts", "ALL"), fields.get("DenyAccounts", "")
    if allowed not in ("ALL", "(null)") and account not in allowed.split(","):
        yield f"--account {account}: partition {name} admits only {allowed}"
    if account in denied.split(","):
        yield f"--account {account}: partition {name} does not admit it"


def _nodes(plan: Plan | CorpusPlan, name: str, answer: Answer) -> Iterator[str]:
    """Whether enough nodes of the partition, busy or not, have the GPUs asked for."""
    if not answer.ok:
        return
    gpus_of: dict[str, int] = {}
    for node, state, gres, _ in _rows(answer.out, 4):
        if state.lower().rstrip(STATE_MARKS) not in UNUSABLE:
            gpus_of[node] = gpu_count(gres)
    needed = plan.layout.nodes
    if len(gpus_of) < needed:
        yield f"--num-nodes {needed}: partition {name} has {counted(len(gpus_of), 'usable node')}; lower it or choose another"
    elif plan.accelerator == "gpu":
        gpus = plan.layout.ranks_per_node
        fitting = sum(count >= gpus for count in gpus_of.values())
        if fitting < needed:
            yield (
                f"--num-gpus {gpus}: {counted(fitting, 'usable node')} of partition {name} {'has' if fitting == 1 else 'have'} that many GPUs, and --num-nodes is"
                f" {needed}; the largest has {max(gpus_of.values())}"
            )


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """The rows that begin with ROW."""
    for line in text.splitlines():
        row = line.removeprefix(ROW).split("|")
        if line.startswith(ROW) and len(row) == columns:
            yield row


def gpu_count(gres: str) -> int:
    """GPUs in a node's generic resources as sinfo writes them: gpu:8, gpu:a100:4(S:0-1),gpu:h100:4, (null)."""
    return sum(int(count) for count in re.findall(r"\bgpu(?::[^:,()]+)??:(\d+)", gres))


ASSOCIATION = ("account", "partition", "qos", "maxwall", "defaultqos")


def _associations(cluster: Cluster) -> list[dict[str, str]] | None:
    """The user's rows of accounting, or None where it does not answer or the user has no name here."""
    user = login.resolve(cluster.host).user if cluster.host else user_name(os.geteuid())
    if not user:
        return None
    words = ("sacctmgr", "-n", "-P", "show", "associations", f"user={user}", f"format={','.join(ASSOCIATION)}")
    answer = cluster.ask(*words)
    if not answer.ok:
        return None
    rows = [line.split("|") for line in answer.out.splitlines()]
    return [dict(zip(ASSOCIATION, row, strict=True)) for row in rows if len(row) == len(ASSOCIATION)]


def _own(plan: Plan | CorpusPlan, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The user's associations with the account asked for."""
    return [row for row in rows if row["account"].lower() == plan.settings.account.lower()]


def _account(plan: Plan | CorpusPlan, config: str, rows: list[dict[str, str]] | None) -> Iterator[str]:
    account, name = plan.settings.account, plan.settings.partition
    enforced = re.search(r"(?m)^AccountingStorageEnforce\s*=\s*(\S+)", config)
    if rows is None or not enforced or enforced[1] == "none":
        return
    mine = _own(plan, rows)
    if not mine:
        accounts = ", ".join(dict.fromkeys(row["account"] for row in rows)) or "none"
        yield f"--account {account}: you are not a member; your accounts are: {accounts}"
        return
    if all(row["partition"] and row["partition"] not in name.split(",") for row in mine):
        partitions = ", ".join(dict.fromkeys(row["partition"] for row in mine))
        yield f"--partition {name}: account {account} may use only {partitions}"
    qos = plan.settings.qos
    known = {one for row in mine for one in row["qos"].split(",") if one}
    if qos and known and qos not in known:
        yield f"--qos {qos}: account {account} may use {', '.join(sorted(known))}"


def _fields(text: str) -> dict[str, Any]:
    """The fields of a partition."""
    line = next((line for line in text.splitlines() if line.startswith("PartitionName=")), "")
    return dict(re.findall(r"(\w+)=(\S*)", line))
