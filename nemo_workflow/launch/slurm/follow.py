"""Follow Slurm jobs to their end and tell the truth about it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.failures import explain_failure
from nemo_workflow.launch.monitor import Monitor
from nemo_workflow.launch.slurm.cluster import ANOTHERS, JobState, cancel, state_of
from nemo_workflow.launch.slurm.ending import advice, killed_rank, tail, why_ended
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.rank_errors import errors_of
from nemo_workflow.run_dir.slurm_jobs import Job
from nemo_workflow.run_dir.stopping import what_is_saved
from nemo_workflow.utils.errors import STOPPED, Failure
from nemo_workflow.utils.processes import handled

POLL_SECONDS, SSH_POLL_SECONDS = 2.0, 5.0  # over ssh each look is a login
FORGOTTEN_SECONDS = 60.0  # how long Slurm may not know the job before we believe it
UNSEEN_SECONDS = 60.0  # that NFS may keep from us what the job script left: the longest it trusts a folder it has read
STOP = 128 + signal.SIGTERM  # exit code of a run that saved and stopped, or was cancelled


def follow(plan: Plan, submitted: list[Job]) -> int:
    """Show the jobs' progress until the last has ended; returns the exit code. Raises Failure if one failed.

    Ctrl-C asks once whether to detach or to cancel; SIGTERM and SIGHUP detach.
    """
    monitor = Monitor(plan)
    try:
        for job in submitted:
            code = Follower(job, monitor, lambda: _saved(plan)).run()
            if code or job is submitted[-1]:
                return code
    finally:
        monitor.close()
    raise AssertionError("no job")


def _saved(plan: Plan) -> str:
    step = metrics.last(plan.folder / metrics.FILE).get("step", {})
    return what_is_saved(plan.folder, int(step.get("step", 0)))


class Shown(Protocol):
    """What shows a job's progress. `cancelled` says what a job does that runs and is cancelled."""

    @property
    def cancelled(self) -> str: ...

    def update(self) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class Follower:
    """Follows one job; `kept` tells what is kept of it where it ends early, and what the same command does then."""

    def __init__(self, job: Job, monitor: Shown, kept: Callable[[], str]):
        self.job, self.monitor, self.kept = job, monitor, kept
        self.state: JobState | None = None
        self.asked: int | None = None
        self.shown = ""

    def run(self) -> int:
        polled = known = time.monotonic()
        state = self._poll()
        pause = SSH_POLL_SECONDS if self.job.host else POLL_SECONDS
        with handled(self._ask, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            while state is None or not state.ended:
                if state is not None and state.name == "RUNNING":  # while it waits there is nothing to show
                    self.monitor.update()
                if self.asked is not None:
                    code = self._answer()
                    if code is not None:
                        return code
                if time.monotonic() - polled >= pause:
                    state = self._poll()
                    polled = time.monotonic()
                    known = polled if state else known
                    if polled - known > FORGOTTEN_SECONDS:
                        break
                time.sleep(0.2)
        self.monitor.update()
        return verdict(self.job, state, self.monitor, self.kept)

    def _poll(self) -> JobState | None:
        state = state_of(self.job)
        self.state = state or self.state
        if state and not state.ended:
            text = f"job {self.job.job_id} {state.name.lower()}"
            text += f" on {state.nodes}" if state.nodes else ""
            text += f" ({state.reason})" if state.reason else ""
            text += f", restart {state.restarts}" if state.restarts else ""
            if text != self.shown:
                self.monitor.note(text)
                self.shown = text
        return state

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = number

    def _answer(self) -> int | None:
        """What to do after a signal: the exit code, or None to go on following."""
        number, self.asked = self.asked, None
        assert number is not None
        job = self.job.job_id
        self.monitor.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C answers the question: detach
        try:
            reply = _question(job, self._waits) if number == signal.SIGINT and sys.stdin.isatty() else "d"
        except (KeyboardInterrupt, EOFError):
            reply = "d"
        signal.signal(signal.SIGINT, self._ask)
        if reply == "c":
            what = "it waits in the queue, so there is nothing to save" if self._waits else self.monitor.cancelled
            self.monitor.note(f"cancelling job {job}: {what}")
            try:
                cancel(self.job)
            except Failure as failure:
                self.monitor.note(str(failure))
            return None
        if reply == "f":
            return None
        goes_on = "stays in the queue" if self._waits else "keeps running"
        self.monitor.note(f"job {job} {goes_on}; python -m nemo_workflow.runs shows, follows and cancels it")
        return 128 + number

    @property
    def _waits(self) -> bool:
        """Whether the job has not begun, as far as was last seen."""
        return self.state is not None and self.state.name == "PENDING"


def _question(job_id: str, waits: bool) -> str:
    what = "wait" if waits else "run"
    while True:
        reply = input(f"\njob {job_id}: [d]etach and let it {what}, [c]ancel it, or keep [f]ollowing? ")
        reply = reply.strip().lower()[:1]
        if reply in ("d", "c", "f"):
            return reply


def verdict(job: Job, state: JobState | None, monitor: Shown, kept_of: Callable[[], str]) -> int:
    """The exit code of a job that has ended: 0 done, 143 stopped with its state saved. Raises Failure."""
    if state is not None and state.name == ANOTHERS:
        monitor.note(f"job {job.job_id} is over: {state.reason}")
        state = None
    restart, code = _left(job, state)
    if state is None and code is None:
        raise Failure(f"Slurm no longer knows job {job.job_id}, and its script left no exit code; logs: {job.attempt}")
    name = state.name if state else "ended"
    if (state is None or name == "COMPLETED") and code == 0:
        return 0
    kept = kept_of()
    saved, _, _ = kept.partition(";")  # without what the same command does then
    if code == STOPPED or name == "CANCELLED":
        if name == "COMPLETED" and job.link < job.chain:
            monitor.note(f"job {job.job_id} stopped: {saved}; the next link of the chain continues from there")
            return 0
        why = why_ended(job, state) or ("cancelled" if name == "CANCELLED" else "stopped when asked")
        monitor.note(f"job {job.job_id} is over ({why}): {kept}")
        return STOP
    raise Failure(explain(job, state, restart, saved))


def _left(job: Job, state: JobState | None) -> tuple[int, int | None]:
    """The last restart and the exit code that its script left; waits for the latter where Slurm's word says it is there."""
    end = time.monotonic() + UNSEEN_SECONDS
    while True:
        restart = job.restarts
        code = job.exit_code(restart)
        surely = state is not None and (state.name == "COMPLETED" or state.exit_code == STOPPED)
        if code is not None or not surely or time.monotonic() > end:
            return restart, code
        time.sleep(0.5)


def explain(job: Job, state: JobState | None, restart: int, kept: str) -> str:
    """Why a job failed, as text for a person: Slurm's word, the failing rank's own error, and the logs."""
    name = state.name if state else "ended"
    code = state.exit_code if state else job.exit_code(restart)
    lines = [f"job {job.job_id} {name} (exit code {code}); {kept}"]
    if why := why_ended(job, state):
        lines.append("; ".join(filter(None, (why, advice(why)))))
    folder = job.folder(restart)
    errors = errors_of(folder)
    if errors and errors[0].lost_peer and killed_rank(job):
        lines.append(f"so rank {errors[0].rank} lost it; logs: {folder}")
    elif errors:
        lines.append(explain_failure(folder))
    else:
        for path in dict.fromkeys([*job.logs()[-1:], *job.script_logs()]):
            lines += [f"the end of {path}:", *tail(path).splitlines()[-15:]]
    return "\n".join(lines)
