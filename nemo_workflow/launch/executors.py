"""Plan -> nemo_run executor: torchrun on this machine. A Slurm job's is in slurm/script.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nemo_run as run

from nemo_workflow.backends.patching import replaced
from nemo_workflow.backends.registry import find
from nemo_workflow.config.plan import Plan
from nemo_workflow.utils.processes import import_path

LOOPBACK = "127.0.0.1"
GPU_VARIABLES = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # Megatron: order of communication and compute under TP/CP
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",  # NeMo's own launch scripts set it: less memory held back
}


def local(plan: Plan, code: Path) -> run.LocalExecutor:
    """One torchrun on this machine. `code` is the folder that holds the package the workers import."""
    return run.LocalExecutor(
        ntasks_per_node=plan.layout.ranks_per_node, launcher="torchrun", env_vars=worker_environment(plan, code)
    )


@contextlib.contextmanager
def rendezvous_by_address() -> Iterator[None]:
    """Inside it nemo_run starts torchrun with --rdzv-endpoint 127.0.0.1:0, not `localhost`: some machines resolve no name.

    torchrun would wait without a word, for as long as nobody ends it.
    """
    with replaced(find("launch.executors:with_address")):
        yield


def with_address(original: Any) -> Any:
    """nemo_run's `torchrun` with an address in place of a name."""

    def torchrun(*arguments: Any, **keywords: Any) -> Any:
        app = original(*arguments, **keywords)
        for role in app.roles:
            role.args = [f"{LOOPBACK}:0" if word == "localhost:0" else word for word in role.args]
        return app

    return torchrun


def worker_environment(plan: Plan, code: Path) -> dict[str, str]:
    """Variables that every rank needs; none of them secret, since nemo_run writes them into its job files."""
    variables = {
        "PYTHONPATH": import_path(code),
        "PYTHONSAFEPATH": "1",  # not the current folder: it may hold a newer checkout of our code
        "TOKENIZERS_PARALLELISM": "false",
        "PET_LOCAL_ADDR": LOOPBACK,  # torchrun's --local-addr: it would look for this machine by its name
    }
    if plan.accelerator == "cpu":
        cores = len(os.sched_getaffinity(0))
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // plan.layout.ranks_per_node))
        variables["OMP_NUM_THREADS"] = threads
    else:
        variables |= GPU_VARIABLES
    if plan.settings.deterministic:  # cuBLAS, Transformer Engine and NCCL each ask for it in their own way
        variables |= {
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
            "NCCL_ALGO": "Ring",
        }
    return variables
