"""Why a Slurm job ended, in words: from Slurm's state and accounting, and from what the script, the ranks and `runs` left."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

from nemo_workflow.launch.slurm.cluster import ANOTHERS, JobState, cluster_of
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.rank_errors import errors_of
from nemo_workflow.run_dir.slurm_jobs import Job, cancelled_mark, hung_mark
from nemo_workflow.utils.errors import STOPPED
from nemo_workflow.utils.machine import user_described

OUT_OF_MEMORY = "OUT_OF_MEMORY"
PREEMPTED = "PREEMPTED"
CANCELLED = "cancelled"  # by whom is not known
# Slurm's word for the end: what it means, and what helps
ENDS = {
    "TIMEOUT": ("the time limit came before the run could save", "raise --time or --stop-before"),
    "DEADLINE": ("its deadline came", "raise --slurm-arg deadline"),
    OUT_OF_MEMORY: ("the nodes' memory was not enough", "raise --mem"),
    "NODE_FAIL": ("a node was lost", "--requeue N requeues the job automatically"),
    "BOOT_FAIL": ("a node did not boot", "--requeue N requeues the job automatically"),
    PREEMPTED: ("preempted: another job took the nodes", "--requeue N requeues the job automatically"),
}

# slurmstepd's lines: "Detected 1 oom-kill event(s) in StepId=1.0", "StepId=1.0 exceeded memory limit (300 > 200), being killed"
MEMORY = re.compile(r"slurmstepd\S* error: (Detected \d+ oom.kill event|.*[Ee]xceeded (\w+ )?memory limit)")
# what nemo_run's job script shows first (`set -x`), and srun's line of a task that a signal has ended
STARTS = "\n+ export PYTHONUNBUFFERED=1\n"
KILLED = re.compile(
    r"^srun: error: (?P<node>\S+): tasks? (?P<rank>\d+)[\d,-]*: (?!Exited|Terminated)(?P<how>.+)$", re.MULTILINE
)

SAVED = {  # the same of a run that saved and left when it was asked to
    "TIMEOUT": "stopped at its time limit, and saved",
    "DEADLINE": "stopped at its deadline, and saved",
}


def why_ended(job: Job, state: JobState | None) -> str:
    """Why the last start of a job ended; empty while it lives, and after a good end.

    Kept beside the job's other files once it is known, for accounting forgets, and the report may be made elsewhere.
    """
    restart = job.restarts
    kept = job.attempt / f"ended-{restart}"
    if kept.is_file():
        told = kept.read_text(encoding="utf-8").strip()
        if told != CANCELLED or state is None or state.by is None:  # accounting tells later by whom
            return told
    if state is not None and not state.ended:
        return ""
    known = state if state is not None and state.name != ANOTHERS else None
    text = _why(job, known, restart)
    if text and known:
        with contextlib.suppress(OSError):  # another user's folder, a full disk
            kept.write_text(f"{text}\n", encoding="utf-8")
    return text


def _why(job: Job, state: JobState | None, restart: int) -> str:
    name, code = state.name if state else "", job.exit_code(restart)
    hung = hung_mark(job.attempt, restart)
    if hung.is_file():
        return max(hung.read_text(encoding="utf-8").splitlines(), key=len, default="no step for too long")
    if cancelled_mark(job.attempt).is_file() and name != "COMPLETED":
        return f"cancelled by {cancelled_mark(job.attempt).read_text(encoding='utf-8').strip()} with `runs cancel`"
    if state and name == "CANCELLED":
        return f"{CANCELLED} by {user_described(state.by)}" if state.by is not None else CANCELLED
    if name in SAVED and (
        code == STOPPED or _saved_when_asked(job)
    ):  # the signal that goes before the end was time enough
        return SAVED[name]
    if name in ENDS:
        return ENDS[name][0]
    if code == STOPPED:
        return _why_stopped(job, restart)
    if code and _a_step_ran_out_of_memory(job):
        return ENDS[OUT_OF_MEMORY][0]
    return _failed_rank(job, restart) if code else ""


def _why_stopped(job: Job, restart: int) -> str:
    """What asked a start to stop that saved and left; empty where nothing tells."""
    shown = job.attempt / f"slurm-{restart}"  # what scontrol told the job script as it ended
    if shown.is_file() and re.search(r"\bPreemptTime=\d", shown.read_text(encoding="utf-8", errors="replace")):
        return ENDS[PREEMPTED][0]
    asked = [event for event in metrics.read(job.attempt.parent.parent / metrics.FILE) if event["event"] == "stopping"]
    if asked and asked[-1].get("signal") == signal.SIGUSR1:
        return "stopped before its time limit (--stop-before)"
    return ""


def _saved_when_asked(job: Job) -> bool:
    """Whether the ranks of the last start saved and said so, though their script was ended before it could."""
    last = metrics.last(job.attempt.parent.parent / metrics.FILE)
    end, start = last.get("end"), last.get("start")
    return bool(end and end["reason"] == "stopped" and (start is None or end["time"] >= start["time"]))


def _a_step_ran_out_of_memory(job: Job) -> bool:
    """The kernel, or Slurm by its own count, ends ranks or a step; the job's own state is FAILED then.

    Accounting has a word for the first only, and is not there everywhere: slurmstepd writes both into the ranks' log.
    """
    if any(state.startswith(OUT_OF_MEMORY) for state in cluster_of(job).step_states(job.job_id)):
        return True
    return any(MEMORY.search(tail(path)) for path in job.logs()[-1:])


def advice(why: str) -> str:
    """What helps against an end that `why_ended` has told; empty where nothing is known to."""
    return next((helps for text, helps in ENDS.values() if text == why), "")


def tail(path: Path, size: int = 65536) -> str:
    """The end of a log, which may be long."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read().decode(errors="replace")


def _failed_rank(job: Job, restart: int) -> str:
    """The rank that failed first and its error; empty where none has left one, nor srun seen one killed."""
    errors = errors_of(job.folder(restart))
    if (not errors or errors[0].lost_peer) and (killed := killed_rank(job)):
        return killed
    return f"rank {errors[0].rank} failed: {errors[0].message}" if errors else ""


def killed_rank(job: Job) -> str:
    """The first rank of the last start that a signal has ended, by srun's word: it could leave none itself."""
    for path in job.script_logs():
        _, _, last_start = tail(path).rpartition(STARTS)
        if found := KILLED.search(last_start):
            return f"rank {found['rank']} on {found['node']} was ended: {found['how']}"
    return ""
