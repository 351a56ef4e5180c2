"""Start the ranks on this machine: a nemo_run LocalExecutor that runs torchrun. A Slurm job's are in slurm/script.py."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from nemo_workflow import PACKAGE
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.nemo_run_import import import_nemo_run, quiet_experiment
from nemo_workflow.utils.processes import import_path

LOOPBACK = "127.0.0.1"
INTERFACE = "GLOO_SOCKET_IFNAME"  # environment variable of torch: where the ranks' sockets are; several with commas
GPU_VARIABLES = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # Megatron: order of communication and compute under TP/CP
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",  # NeMo's own launch scripts set it: less memory held back
}


class Torchrun:
    """A start's torchrun, a child of ours that nemo_run has started: what subprocess.Popen tells of a process."""

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs. It is left for nemo_run to reap."""
        if self.returncode is None:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended:
                self.returncode = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self.returncode


@contextlib.contextmanager
def started(plan: Plan, attempt: Path, place: Path) -> Iterator[Torchrun]:
    """Have nemo_run start torchrun (torchrun.py) for the plan in `attempt`, to which `place` leads by plain letters.

    It must have ended when the block ends: nemo_run waits for that.
    """
    home = place / "launcher"
    run = import_nemo_run(home)
    code = place / "code"
    # torchx puts values of its own in place of $WORD; a path and no -m: torchrun asks `inspect` for its callers' modules,
    # which takes a second where one is runpy's
    words = [word.replace("$", "$$") for word in arguments(plan, attempt, home)]
    script = run.Script(path=str(code / PACKAGE.name / "launch" / "torchrun.py"), entrypoint=sys.executable, args=words)
    with quiet_experiment(run, home) as experiment:
        experiment.add(script, executor=executor(run, plan, code), name="train")
        before = set(psutil.Process().children())
        experiment.run()
        yield Torchrun(next(child.pid for child in psutil.Process().children() if child not in before))


def without_network() -> Iterator[str]:
    """Why ranks of this machine would not reach each other, which torch tells after minutes, or without the variable's name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.connect((LOOPBACK, 9))  # sends nothing
        except OSError as error:
            yield f"{LOOPBACK}: {error.strerror}; the ranks meet there: ip link set lo up, as root"
    there = [name for _, name in socket.if_nameindex()]
    for name in filter(None, os.environ.get(INTERFACE, "").split(",")):
        if name not in there:
            yield f"{INTERFACE}={name}: this machine has no such interface, but {', '.join(there)}; unset {INTERFACE}"


def arguments(plan: Plan, attempt: Path, logs: Path) -> list[str]:
    """torchrun's. An address stands where it would take `localhost`, or this machine by its name.

    Some machines resolve none, and it would wait without a word.
    """
    return [
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{LOOPBACK}:0", "--rdzv-id", attempt.name, "--local-addr", LOOPBACK,
        "--nnodes", "1", "--nproc-per-node", str(plan.layout.ranks_per_node), "--tee", "3", "--log-dir", str(logs / "torchelastic"),
        "-m", "nemo_workflow.training.rank", str(attempt),
    ]  # fmt: skip


def executor(run: Any, plan: Plan, code: Path) -> Any:
    """The plan -> nemo_run.LocalExecutor. It has no launcher of nemo_run's: its torchrun would start each rank from nothing."""
    variables = worker_environment(plan, code) | {"PYTHONUNBUFFERED": "1"}
    variables["LOGLEVEL"] = os.environ.get("LOGLEVEL", "INFO")  # of torchrun's own log
    return run.LocalExecutor(ntasks_per_node=plan.layout.ranks_per_node, env_vars=variables)


def worker_environment(plan: Plan, code: Path) -> dict[str, str]:
    """Variables that every rank needs; none of them secret, since nemo_run writes them into its job files."""
    variables = {
        "PYTHONPATH": import_path(code),
        "PYTHONSAFEPATH": "1",  # not the current folder: it may hold a newer checkout of our code
        "TOKENIZERS_PARALLELISM": "false",
    }
    if plan.accelerator == "cpu":
        cores = len(os.sched_getaffinity(0))
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // plan.layout.ranks_per_node))
        variables["OMP_NUM_THREADS"] = threads
    else:
        variables |= GPU_VARIABLES
        if plan.layout.ranks_per_node > 1:  # torchrun would set it, after the ranks' imports have read it
            variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"
    if plan.settings.deterministic:  # cuBLAS, Transformer Engine and NCCL each ask for it in their own way
        variables |= {
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
            "NCCL_ALGO": "Ring",
        }
    return variables
