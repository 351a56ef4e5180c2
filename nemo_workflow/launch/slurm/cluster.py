"""A Slurm cluster, asked through its own commands, here or over ssh. Light."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass

from nemo_workflow.launch.slurm import login

ENDED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")
)
SECONDS = 20.0  # the longest that a question to Slurm may take
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")


@dataclass(frozen=True)
class JobState:
    """Where a job stands. `exit_code` is the job script's, 128 + signal where a signal ended it."""

    name: str  # Slurm's word: PENDING, RUNNING, COMPLETED …; UNKNOWN where it can't be asked now
    reason: str = ""
    exit_code: int = 0
    restarts: int = 0
    nodes: str = ""

    @property
    def ended(self) -> bool:
        return self.name in ENDED


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def silent(self) -> bool:
        """Whether nobody answered who would know: ssh failed, the controller is away, or it took too long."""
        return self.code in (124, 255) or "Unable to contact" in self.err

    @property
    def reason(self) -> str:
        """The last line that says what is wrong."""
        lines = [line for line in (self.err + self.out).splitlines() if line.strip() and not line.startswith("Try ")]
        return re.sub(r"^\w+: (error: )?", "", lines[-1].strip()) if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Cluster:
    """`host` is None where Slurm's commands are on this machine, else [USER@]HOST[:PORT] to reach by ssh."""

    host: str | None = None

    def ask(self, *words: str, text: str | None = None, seconds: float = SECONDS) -> Answer:
        """Run a command on the cluster with `text` as its input; 127 where it isn't there, 124 where it hangs."""
        command = list(words)
        if self.host:
            command = [*login.command(self.host, "-o", "BatchMode=yes"), "--", " ".join(map(shlex.quote, words))]
        try:
            done = subprocess.run(
                command,
                input=text or "",
                capture_output=True,
                text=True,
                timeout=seconds,
                env=without_slurm(dict(os.environ)),
            )
        except FileNotFoundError:
            return Answer(127, "", f"{command[0]}: command not found")
        except subprocess.TimeoutExpired:
            return Answer(124, "", f"{words[0]}: no answer within {seconds:.0f} s")
        return Answer(done.returncode, done.stdout, done.stderr)

    def job(self, job_id: str) -> JobState | None:
        """Where a job stands: from the controller, which forgets ended jobs after minutes, else from accounting.

        None: neither knows it.
        """
        controller = self.ask("scontrol", "show", "job", "--oneliner", job_id)
        if controller.ok and "JobState=" in controller.out:
            return _from_scontrol(controller.out)
        answer = self.ask("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State,ExitCode,NodeList,Restarts")
        if not answer.ok:  # Restarts is a field since Slurm 23
            answer = self.ask("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State,ExitCode,NodeList")
        if answer.ok and answer.out.strip():
            return _from_sacct(answer.out.strip().splitlines()[-1])
        return JobState("UNKNOWN", controller.reason) if controller.silent else None

    def keeps_accounts(self) -> bool:
        """Whether sacct answers."""
        return self.ask("sacct", "-X", "-n", "-j", "1").ok

    def cancel(self, job_id: str, at_once: bool = False, seconds: float = 300.0) -> JobState | None:
        """End a job; unless `at_once`, let a running one save first, for up to `seconds`. Returns its last state."""
        state = self.job(job_id)
        if state is None or state.ended:
            return state
        if state.name == "RUNNING" and not at_once:
            # so that the job script's own requeue is refused
            self.ask("scontrol", "update", f"JobId={job_id}", "Requeue=0")
            self.ask("scancel", "--signal=TERM", job_id)
            state = self.wait(job_id, seconds)
            if state is None or state.ended:
                return state
        self.ask("scancel", job_id)
        return self.wait(job_id, 60.0)

    def wait(self, job_id: str, seconds: float) -> JobState | None:
        """The job's state when it has ended, or after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            state = self.job(job_id)
            if state is None or state.ended or time.monotonic() > end:
                return state
            time.sleep(0.5)


def without_slurm(variables: dict[str, str]) -> dict[str, str]:
    """The variables without those that change what sbatch makes of a job script (they win over its #SBATCH lines)."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith(("SBATCH_", "SLURM_", "SRUN_")) or name in KEPT
    }


def _exit_code(text: str) -> int:
    """Slurm's CODE:SIGNAL as a shell says it."""
    code, _, signal = text.partition(":")
    return 128 + int(signal) if signal.isdigit() and int(signal) else int(code or 0)


def _from_scontrol(line: str) -> JobState:
    fields = dict(reversed(re.findall(r"(?:^|\s)(\w+)=(\S*)", line)))  # the first of a name counts
    reason = fields.get("Reason", "")
    return JobState(
        name=fields["JobState"],
        reason="" if reason == "None" else reason,
        exit_code=_exit_code(fields.get("ExitCode", "0:0")),
        restarts=int(fields.get("Restarts", 0)),
        nodes=fields.get("NodeList", "").replace("(null)", ""),
    )


def _from_sacct(line: str) -> JobState:
    state, code, nodes, *rest = line.split("|")
    return JobState(
        name=state.split()[0],  # "CANCELLED by 1000"
        exit_code=_exit_code(code),
        restarts=int(rest[0]) if rest and rest[0].isdigit() else 0,
        nodes=nodes if nodes != "None assigned" else "",
    )
