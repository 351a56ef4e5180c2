"""Start the ranks on this machine: torchrun's command and what is in its environment. A Slurm job's are in slurm/script.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nemo_workflow import PACKAGE
from nemo_workflow.config.plan import Plan
from nemo_workflow.utils.processes import import_path

LOOPBACK = "127.0.0.1"
GPU_VARIABLES = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # Megatron: order of communication and compute under TP/CP
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",  # NeMo's own launch scripts set it: less memory held back
}


def start(plan: Plan, attempt: Path, code: Path) -> subprocess.Popen[bytes]:
    """Start torchrun (torchrun.py) for the plan in `attempt`. `code` is the folder that holds the package the ranks import.

    An address stands where torchrun would take `localhost`, or this machine by its name: some resolve none, and it would wait
    without a word.
    """
    logs = attempt / "launcher"
    logs.mkdir(parents=True, exist_ok=True)
    command = [
        # a path and no -m: torchrun asks `inspect` for its callers' modules, which takes a second where one is runpy's
        sys.executable, str(code / PACKAGE.name / "launch" / "torchrun.py"),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{LOOPBACK}:0", "--rdzv-id", attempt.name, "--local-addr", LOOPBACK,
        "--nnodes", "1", "--nproc-per-node", str(plan.layout.ranks_per_node), "--tee", "3", "--log-dir", str(logs / "torchelastic"),
        "-m", "nemo_workflow.training.rank", str(attempt),
    ]  # fmt: skip
    variables = os.environ | worker_environment(plan, code) | {"NEMORUN_HOME": str(logs), "PYTHONUNBUFFERED": "1"}
    variables.setdefault("LOGLEVEL", "INFO")  # of torchrun's own log
    with (logs / "stdout.log").open("wb") as stdout, (logs / "stderr.log").open("wb") as stderr:
        return subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
        )


def worker_environment(plan: Plan, code: Path) -> dict[str, str]:
    """Variables that every rank needs."""
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
