"""The watcher of a Slurm job's node: a process beside the ranks that ends them when the run shows no sign of life.

One a node, for a rank that is stopped or hangs in C code can watch nothing, rank 0 included, and stacks can be asked for on
their own node only. All of them look at the same files on the shared disk, so all find the hang at about the same time.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import time
from pathlib import Path

import psutil

from nemo_workflow.training import liveness
from nemo_workflow.utils.processes import die_with_parent

LOOK_SECONDS = 1.0
TOGETHER_SECONDS = 90.0  # for the other nodes' watchers to find the hang too, before srun ends their ranks for ours: a
# network disk shows them its files up to a minute late
SAME = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID")  # variables that the ranks of a node share


def start(run: Path, folder: Path, mark: Path, limit: float) -> None:
    """Fork the watcher, before this process has any thread. It goes with this process.

    `folder` is where this start's ranks write; `mark` is the file that tells the job script of a hang; `limit` in seconds.
    """
    rank = os.getpid()
    if os.fork():
        return
    try:
        die_with_parent(rank)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # they mean the ranks
        silence = liveness.Silence(folder, run)
        while (
            not (allowed := silence.too_long(limit)) and not mark.exists()
        ):  # one watcher's finding is all the others'
            time.sleep(LOOK_SECONDS)
        _end(psutil.Process(rank), mark, allowed or limit)
    finally:
        os._exit(0)


def _end(own: psutil.Process, mark: Path, limit: float) -> None:
    ranks = ranks_of_node(own)
    node = os.environ.get("SLURMD_NODENAME") or platform.node()
    text = f"no step for {limit / 60:g} min"
    stopped = [str(number) for number, rank in ranks.items() if liveness.is_stopped(rank)]
    if stopped:
        text += f"; rank {', '.join(stopped)} on {node} was stopped (SIGSTOP)"
    with mark.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")
    print(f"{node}: {text}: writing all ranks' stacks to their logs and ending them", file=sys.stderr, flush=True)
    _wait_for_others(mark, int(os.environ.get("SLURM_NNODES", 1)))
    # the rank that we go with is the last
    liveness.end_hung([*(rank for rank in ranks.values() if rank != own), own])


def _wait_for_others(mark: Path, nodes: int) -> None:
    """Return when every node's watcher has written its line, at the latest after TOGETHER_SECONDS."""
    end = time.monotonic() + TOGETHER_SECONDS
    while len(mark.read_text(encoding="utf-8", errors="replace").splitlines()) < nodes and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)


def ranks_of_node(own: psutil.Process) -> dict[int, psutil.Process]:
    """The ranks on this node by number: of the processes of our step, those that no other of them has started."""
    shared = {name: os.environ.get(name) for name in SAME}
    found: dict[int, tuple[psutil.Process, int]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or it ends just now
            variables = process.environ()
            if all(variables.get(name) == value for name, value in shared.items()) and "rank.py" in " ".join(
                process.cmdline()
            ):
                found[process.pid] = (process, int(variables["SLURM_PROCID"]))
    ranks = {number: process for process, number in found.values() if process.ppid() not in found}
    return dict(sorted(ranks.items())) or {int(os.environ.get("RANK", 0)): own}
