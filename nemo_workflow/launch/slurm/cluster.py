"""A Slurm cluster, asked through its own commands, here or over ssh."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass, replace

from nemo_workflow.launch.slurm import login
from nemo_workflow.run_dir.slurm_jobs import Job, cancelled_mark
from nemo_workflow.utils.errors import Failure
from nemo_workflow.utils.machine import user_described

ENDED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")
)
SECONDS = 20.0  # the longest that a question to Slurm may take
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
UNKNOWN = "UNKNOWN"  # it can't be asked now
ANOTHERS = "ANOTHERS"  # the number belongs to another job now
UNNAMED = "allocation"  # what sacct calls a job whose name has not reached the database yet
CLOCK_SECONDS = 300.0  # that the clocks of one cluster may differ: munge refuses whoever is further off
EPOCH = ("env", "SLURM_TIME_FORMAT=%s")  # Slurm's commands then print times as seconds since the epoch
SACCT_FIELDS = "JobID,State,ExitCode,NodeList,JobName,UID,Submit,Cluster"


@dataclass(frozen=True)
class JobState:
    """Where a job stands. `exit_code` is the job script's, 128 + signal where a signal ended it.

    Of the rest all but `by` say which job it is; each is None or empty where Slurm's command does not tell.
    """

    name: str  # Slurm's word: PENDING, RUNNING, COMPLETED …; or one of the two above
    reason: str = ""
    exit_code: int = 0
    restarts: int = 0
    nodes: str = ""
    job_name: str = ""
    uid: int | None = None
    submitted: int | None = None  # seconds since the epoch; a requeue is a new submission
    output: str = ""  # the job script's log
    cluster: str = ""
    by: int | None = None  # the uid of who cancelled it, where accounting tells

    @property
    def ended(self) -> bool:
        return self.name in ENDED or self.name == ANOTHERS


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
    """`host` is None where Slurm's commands are on this machine, else [USER@]HOST[:PORT] to reach by ssh.

    `name` is a cluster's that is not this machine's own, and reached through the accounting that both share.
    """

    host: str | None = None
    name: str = ""

    @property
    def _named(self) -> tuple[str, ...]:
        return ("-M", self.name) if self.name else ()

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
        """What has this number: from the controller, which forgets ended jobs after minutes, else from accounting.

        None: neither knows it. Whether it is the job that was recorded, `state_of` tells.
        """
        controller = self.ask(*EPOCH, "scontrol", *self._named, "show", "job", "--oneliner", job_id)
        found = _from_scontrol(controller.out) if controller.ok else None
        if found and found.name != "CANCELLED":  # the controller doesn't say by whom
            return found
        told = found
        for fields in (f"{SACCT_FIELDS},Restarts", SACCT_FIELDS):  # Restarts is a field since Slurm 23
            answer = self.ask(*EPOCH, "sacct", *self._named, "-X", "-n", "-P", "-j", job_id, "-o", fields)
            if answer.ok:
                found = _from_sacct(answer.out, job_id)
                break
        if told:
            return replace(told, by=found.by if found else None)
        return found or (JobState(UNKNOWN, controller.reason) if controller.silent else None)

    def step_states(self, job_id: str) -> list[str]:
        """Slurm's words for a job and its steps, as far as accounting tells; the job's own may hide a step's."""
        answer = self.ask("sacct", *self._named, "-n", "-P", "-j", job_id, "-o", "JobID,State")
        rows = [line.split("|") for line in answer.out.splitlines() if line.startswith(job_id)]
        return [row[1] for row in rows if len(row) == 2] if answer.ok else []

    def keeps_accounts(self) -> bool:
        """Whether sacct answers."""
        return self.ask("sacct", "-X", "-n", "-j", "1").ok


@functools.cache
def cluster_name(host: str | None) -> str:
    """The name of the cluster whose commands are on this machine or on `host`; empty where it does not answer."""
    found = re.search(r"(?m)^ClusterName\s*=\s*(\S+)", Cluster(host).ask("scontrol", "show", "config").out)
    return found[1] if found else ""


def state_of(job: Job) -> JobState | None:
    """Where a recorded job stands; None where Slurm no longer knows it.

    Numbers come again: after the counter's reset, and on another cluster that sees the same disk. ANOTHERS where the number
    is another job's now, UNKNOWN where the job is on a cluster that can't be asked from here.
    """
    here = cluster_name(job.host) if job.cluster else ""
    elsewhere = job.cluster if here and job.cluster != here else ""
    found = Cluster(job.host, elsewhere).job(job.job_id)
    if elsewhere and (found is None or found.name == UNKNOWN):
        code = job.exit_code(job.restarts)
        if code is not None:
            return None  # its script has ended
        return JobState(UNKNOWN, f"it was submitted to cluster {job.cluster}, and this is cluster {here}")
    if found is None or found.name == UNKNOWN or _is(job, found):
        return found
    owner = f" of {user_described(found.uid)}" if found.uid is not None else ""
    return JobState(ANOTHERS, f"the number now belongs to another job, {found.job_name}{owner}")


def _is(job: Job, found: JobState) -> bool:
    """Whether what Slurm shows is the job that was recorded."""
    if found.job_name not in (job.name, "", UNNAMED):
        return False
    if None not in (found.uid, job.uid) and found.uid != job.uid:
        return False
    if found.cluster and job.cluster and found.cluster != job.cluster:
        return False
    if found.output and job.attempt.name not in found.output.split("/"):
        return False
    later = (found.submitted - job.submitted) if found.submitted is not None else 0.0
    if later > CLOCK_SECONDS:
        return bool(found.restarts or job.restarts)
    return later >= -CLOCK_SECONDS


def cancel(job: Job, at_once: bool = False, seconds: float = 300.0) -> JobState | None:
    """End a recorded job; unless `at_once`, let a running one save first, for up to `seconds`. Returns its last state.

    Raises Failure, and sends nothing, where it is not known to be that job; and where Slurm refuses.
    """
    state = _surely(job)
    if state is None or state.ended:
        return state
    cluster = cluster_of(job)
    if state.name == "RUNNING" and not at_once:
        # so that the job script's own requeue is refused
        cluster.ask("scontrol", *cluster._named, "update", f"JobId={job.job_id}", "Requeue=0")
        _sent(job, cluster.ask("scancel", *cluster._named, "--signal=TERM", job.job_id))
        state = wait(job, seconds)
        if state is not None and not state.ended:
            state = _surely(job)
        if state is None or state.ended:
            return state
    _sent(job, cluster.ask("scancel", *cluster._named, job.job_id))
    return wait(job, 60.0)


def wait(job: Job, seconds: float) -> JobState | None:
    """A recorded job's state when it has ended, or after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        state = state_of(job)
        if state is None or state.ended or time.monotonic() > end:
            return state
        time.sleep(0.5)


def cluster_of(job: Job) -> Cluster:
    """The cluster to send orders about a job to."""
    here = cluster_name(job.host) if job.cluster else ""
    return Cluster(job.host, job.cluster if here and job.cluster != here else "")


def _surely(job: Job) -> JobState | None:
    state = state_of(job)
    if state is not None and state.name == UNKNOWN:
        raise Failure(f"job {job.job_id}: Slurm can't be asked about it now ({state.reason}); nothing was cancelled")
    return state


def _sent(job: Job, answer: Answer) -> None:
    with contextlib.suppress(OSError):  # another user's folder
        cancelled_mark(job.attempt).write_text(user_described(os.geteuid()))
    if not answer.ok and "already completed" not in answer.err:
        raise Failure(f"job {job.job_id} was not cancelled: {answer.reason}")


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


def _from_scontrol(text: str) -> JobState | None:
    """The job in what `scontrol show job --oneliner` printed; a site's wrapper may have printed more lines."""
    line = next((line for line in text.splitlines() if line.startswith("JobId=") and "JobState=" in line), None)
    if line is None:
        return None
    fields = dict(reversed(re.findall(r"(?:^|\s)(\w+)=(\S*)", line)))  # the first of a name counts
    reason = fields.get("Reason", "")
    uid = re.search(r"\((\d+)\)$", fields.get("UserId", ""))
    return JobState(
        name=fields["JobState"],
        reason="" if reason == "None" else reason,
        exit_code=_exit_code(fields.get("ExitCode", "0:0")),
        restarts=int(fields.get("Restarts", 0)),
        nodes=fields.get("NodeList", "").replace("(null)", ""),
        job_name=fields.get("JobName", ""),
        uid=int(uid[1]) if uid else None,
        submitted=_number(fields.get("SubmitTime", "")),
        output=fields.get("StdOut", ""),
    )


def _from_sacct(text: str, job_id: str) -> JobState | None:
    """The last of a job's rows of SACCT_FIELDS; a site's wrapper may have printed more lines."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith(f"{job_id}|")]
    rows = [row for row in rows if len(row) > SACCT_FIELDS.count(",")]
    if not rows:
        return None
    _, state, code, nodes, name, uid, submitted, cluster, *rest = rows[-1]
    return JobState(
        name=state.split()[0],  # "CANCELLED by 1000"
        exit_code=_exit_code(code),
        restarts=int(rest[0]) if rest and rest[0].isdigit() else 0,
        nodes=nodes if nodes != "None assigned" else "",
        job_name=name,
        uid=_number(uid),
        submitted=_number(submitted),
        cluster=cluster,
        by=_number(state.rpartition(" by ")[2]),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
