"""--max-restarts N: which failures of the ranks are worth another start by itself, and when to give up.

torchrun's own --max-restarts (torch 2.13, elastic/agent/server/api.py) and nvidia-resiliency-ext's launcher (0.4.1,
fault_tolerance/launcher.py) restart after any exit code but 0: after a NaN stop, a refusal, a rank that saved because it was
asked to stop, and without looking at whether the run gets any further. nemo_run's retries (0.11.1) do nothing on this
machine, as torchx's local scheduler does not read them; in its Slurm script they requeue after any exit code but 0. So the
launcher starts the ranks again itself, as the same command typed again would.
"""

from __future__ import annotations

import re
import time

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import newest_whole

# "rank 1 was ended by SIGKILL" (the host's out-of-memory killer sends it too), "no step for 30 min" of a hung rank
ENDED = re.compile(
    r"(rank \d+|torchrun\b.*) was ended by SIG|no step for "
    # training/shard_writer.py, and where it is the process between (training/checkpointing.py)
    r"|rank \d+:\n.* (the process that wrote .* was ended by SIG|a process that writes it was ended from outside)"
)
# in the last line of a rank's traceback
BROKEN = re.compile(
    r"CUDA error|CUDA driver|ECC error|NCCL|DistBackendError|DistNetworkError|Connection (closed|reset)"
    r"|\bMemoryError|Cannot allocate memory"
)


def worth_another(failure: str) -> bool:
    """Whether the machine failed, not what the user asked for: refusals and NaN stops have no traceback."""
    if ENDED.match(failure):
        return True
    _, _, trace = failure.partition("Traceback (most recent call last)")
    last = [line for line in trace.splitlines() if line and not line.startswith((" ", "log of rank"))]
    return any(BROKEN.search(line) for line in last)


class Restarts:
    """Counts the restarts of one command."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.most = plan.settings.max_restarts
        self.done = 0
        self.saved = -1  # the newest checkpoint's step at the last restart

    def another(self, failure: str) -> bool:
        """Whether to start again after a failure; says so, or why not, and writes it into the run's metrics."""
        if not self.most or not worth_another(failure):
            return False
        newest, _ = newest_whole(self.plan.folder / "checkpoints")
        step = newest.step if newest else 0
        if self.done == self.most or step <= self.saved:
            why = "all used" if self.done == self.most else "no checkpoint was saved since the last restart"
            print(f"no further restart (--max-restarts {self.most}): {why}", flush=True)
            return False
        self.done, self.saved = self.done + 1, step
        last = metrics.last(self.plan.folder / metrics.FILE).get("step", {}).get("step", 0)
        lines = failure.splitlines()
        what = lines[0] if "Traceback" in failure or len(lines) == 1 else " ".join(lines[:-1])  # the last names the log
        what = re.split("; its log|; logs:", what)[0].rstrip(":")
        text = (
            f"{time.strftime('%H:%M:%S')} {what}, after step {last}; restart {self.done} of {self.most}"
            f" from {f'step {step}' if step else 'the beginning'}"
        )
        metrics.event(self.plan.folder / metrics.FILE, "restart", step=step, text=text)
        print(text, flush=True)
        return True
