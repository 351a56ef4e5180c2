"""The experiment: start the ranks through nemo_run, follow them, stop them, and tell the truth about the end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from nemo_workflow import PACKAGE
from nemo_workflow.config import micro_batch, resolve
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch import ranks
from nemo_workflow.launch.corpus_plan import CorpusPlan
from nemo_workflow.launch.failures import explain_failure, killer
from nemo_workflow.launch.monitor import Monitor
from nemo_workflow.launch.restarts import Restarts
from nemo_workflow.run_dir import metrics, staged_tokenizer, starting
from nemo_workflow.run_dir.checkpoints import SPACE_MARGIN, bytes_of_one, free_bytes, newest_whole, save_under_way
from nemo_workflow.run_dir.config_yaml import config_text
from nemo_workflow.run_dir.report_process import Refresher
from nemo_workflow.run_dir.stopping import grace_seconds, tell_signal, what_is_saved
from nemo_workflow.training import liveness, rank, resume
from nemo_workflow.utils import scratch
from nemo_workflow.utils.console import Meter, human_bytes
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import write_json, written_aside
from nemo_workflow.utils.folder_kinds import PLAN
from nemo_workflow.utils.processes import adopting, handled

OLD_RANKS_SECONDS = (
    60.0  # ranks of a launcher that was killed need so long at most to notice, beside their grace time and a save
)
BEFORE_THE_FIRST_STEP = " before the first step"
LOOK_SECONDS = 0.2  # between two looks at how the ranks are
GONE_SECONDS = 10.0  # for processes that were killed to go
REPORT_SECONDS = 15.0  # that the last report may hold up the end
STOPPED_REPORT_SECONDS = 3.0  # the same where the user waits for a stop; the writer goes on by itself


def run_local(plan: Plan) -> int:
    """Train on this machine until the end; returns the exit code: 0 done, 130/143 stopped. Raises Failure."""
    if problems := list(ranks.without_network()):
        raise Refusal(problems)
    with locked(plan.folder):
        restarts = Restarts(plan)
        while True:
            wait_for_old_ranks(plan)
            check_space(plan)
            identity, changes = resume.check_changes(plan)
            attempt = new_attempt(plan)
            try:
                prepare(plan, attempt)
            except KeyboardInterrupt:  # our own handler takes it from here on
                tell_signal(attempt, signal.SIGINT)
                print(f"stopped{BEFORE_THE_FIRST_STEP}: {what_is_saved(plan.folder, 0)}", flush=True)
                return 128 + signal.SIGINT
            write_json(attempt / resume.IDENTITY, identity)
            tail = metrics.Tail(plan.folder / metrics.FILE, from_end=True)
            try:
                return _Local(plan, attempt, changes).run()
            except Failure as failure:
                starting.tell_failed(attempt, str(failure))
                smaller = micro_batch.smaller_after_failure(plan, attempt, tail.new())
                if smaller is not None:
                    print(smaller.notes[-1], flush=True)
                    plan = resolve.with_time(smaller)
                elif not restarts.another(str(failure)):
                    raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's lock; raises Refusal if another start holds it, or where the folder can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = liveness.lock_run(folder)
    except OSError as error:
        raise Refusal(
            f"--output-dir {folder.parent}: {folder} can't be written ({error.strerror}); give another folder, or make"
            " this one writable"
        ) from None
    with lock:
        yield


def wait_for_old_ranks(plan: Plan) -> None:
    """Return when no rank of an earlier start of this run lives; raises Refusal when one does not end."""
    if liveness.ranks_gone(plan.folder, 0):
        return
    print("ranks of an earlier start are still running (its launcher was killed); waiting for them to end", flush=True)
    patience = OLD_RANKS_SECONDS + grace_seconds(plan)
    saves = time.monotonic() + liveness.SAVE_SECONDS
    while not liveness.ranks_gone(plan.folder, patience):
        if save_under_way(plan.folder / "checkpoints") and time.monotonic() < saves:
            continue
        raise Refusal(
            f"--experiment {plan.folder.name}: ranks of an earlier start still run and write to {plan.folder}; end"
            " them (ps ax | grep nemo_workflow/launch/torchrun), or choose another name"
        )


def check_space(plan: Plan) -> None:
    """Raise Refusal when the disk has no room for one more checkpoint of the size that this run writes."""
    size = bytes_of_one(plan.folder / "checkpoints")
    free = free_bytes(plan.folder)
    if size is not None and free < size * SPACE_MARGIN:
        raise Refusal(
            f"--output-dir: no space left for a checkpoint: it needs {human_bytes(size * SPACE_MARGIN)}, and"
            f" {human_bytes(free)} are free in {plan.folder}; free some, or lower --keep-checkpoints"
        )


def new_attempt(plan: Plan | CorpusPlan) -> Path:
    """The folder that the next start will have; it doesn't exist yet."""
    attempt = plan.folder / "attempts" / time.strftime(starting.NAME)
    while attempt.exists():  # two starts within a second
        attempt = attempt.with_name(attempt.name + "b")
    return attempt


def prepare(plan: Plan, attempt: Path | None = None) -> Path:
    """Make the folder of this start: plan, config and a copy of our code, so that the workers run what was launched."""
    attempt = attempt or new_attempt(plan)
    attempt.mkdir(parents=True)
    starting.tell_launched(attempt)
    with written_aside(plan.folder / "config.yaml") as stream:
        stream.write(config_text(plan))
    written = plan.to_json()
    with written_aside(plan.folder / PLAN) as stream:
        stream.write(written)
    staged_tokenizer.stage(plan)
    copy_code(attempt)
    with written_aside(attempt / PLAN) as stream:
        stream.write(written)
    write_json(attempt / metrics.VERSIONS, metrics.versions())
    return attempt


def copy_code(attempt: Path) -> None:
    """So that the workers run what was launched, whatever becomes of the sources meanwhile.

    With what Python has compiled of them, but for a file that it is just writing: each process would compile them again.
    """
    ignore = shutil.ignore_patterns("*.pyc.*", ".#*")  # the latter are Emacs's locks, links that lead nowhere
    shutil.copytree(PACKAGE, attempt / "code" / PACKAGE.name, ignore=ignore, copy_function=_copy_if_there)


def _copy_if_there(source: str, target: str) -> None:
    """Editors' files come and go; a module that has gone is an error."""
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:
        if source.endswith(".py"):
            raise


class _NotStartedError(BaseException):
    """A signal came while nemo_run was starting torchrun; no `except Exception` of a library's may hold it."""


class _Local:
    """One start of a run on this machine."""

    def __init__(self, plan: Plan, attempt: Path, changes: list[str]):
        self.plan = plan
        self.changes = changes
        self.attempt = attempt
        self.monitor = Monitor(plan, outlive=True)
        self.asked: int | None = None  # signal that asked us to stop
        self.patience = liveness.Patience()  # with ranks that were asked
        self.told = False  # that the ranks were asked
        self.process: ranks.Torchrun | None = None
        self.launching = False  # nemo_run is imported and starts torchrun: seconds on a busy machine
        self.torchrun: int | None = (
            None  # its exit code, negative for a signal; None while it runs, or where it was ended here
        )
        self.insisted = False
        self.stopped_early = ""  # how, where the ranks did not get to their save
        self.hung = ""  # what was found when no step was made for too long
        self.silence = liveness.Silence(attempt, plan.folder)
        self.before: set[psutil.Process] = (
            set()
        )  # children of ours that are not this start's: a report is being written

    def run(self) -> int:
        with (
            handled(self._ask, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1),
            adopting(),  # so that no rank is lost sight of whose torchrun has died
            _plain_path(self.attempt) as place,
        ):
            try:
                self._start(place)
            except _NotStartedError:
                self.stopped_early = BEFORE_THE_FIRST_STEP
            finally:
                scratch.sweep()  # a rank that was killed has left its folder
            self.monitor.update()
            self.monitor.close()
            if not self._finished and not self._asked:  # the report takes its time, and may be waited for
                starting.tell_failed(self.attempt, self._why_failed())
            # the report is as it was where nothing has begun
            if not self.insisted and (self.monitor.started or self.asked is None):
                Refresher(self.plan.folder).finish(REPORT_SECONDS if self.asked is None else STOPPED_REPORT_SECONDS)
            return self._verdict()

    def _start(self, place: Path) -> None:
        """Start the ranks and follow them to their end; `place` leads to the attempt's folder."""
        self.before = set(psutil.Process().children())
        os.environ[liveness.LAUNCHER] = liveness.launcher_mark()
        for change in self.changes:
            self.monitor.note(change)
        with contextlib.ExitStack() as stack:
            try:
                self.launching = True
                if self.asked is None:
                    self.process = stack.enter_context(ranks.started(self.plan, self.attempt, place))
                    self.launching = False
                    self._follow(self.process)
            finally:  # after an error too: nobody would stop them
                self.launching = False
                self._leave_nothing_running()

    def _follow(self, torchrun: ranks.Torchrun) -> None:
        """Return when torchrun has ended."""
        while (code := torchrun.poll()) is None:
            self.monitor.update()
            self._tell_if_asked()
            self._stop_if_asked()
            self._stop_if_hung()
            time.sleep(LOOK_SECONDS)
        if not self.stopped_early and not self.hung:
            self.torchrun = code

    # -- stopping -------------------------------------------------------------------------------------------------

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked is not None:
            # a terminal that closes sends it twice, the kernel and the shell; and nobody is there to insist
            self.insisted = self.insisted or number != signal.SIGHUP
        else:
            self.asked = number
            self.patience.renew()
            tell_signal(self.attempt, number)
            _send(self._ranks(), signal.SIGTERM)
        if self.launching:  # nobody looks at `asked` before it is done
            self._leave_nothing_running()
            raise _NotStartedError

    def _tell_if_asked(self) -> None:
        """Not where the signal is taken: it may have come in the middle of a line."""
        if self.asked is not None and not self.told:
            self.told = True
            more = " (once more to stop at once)" if self.monitor.started else ""
            self.monitor.note(f"stopping: {self.monitor.cancelled}{more}")

    def _stop_if_asked(self) -> None:
        if self.asked is None:
            return
        saving = self.monitor.saving or save_under_way(self.plan.folder / "checkpoints")
        if saving:
            self.patience.renew()  # the grace time begins when the save is done
        grace = grace_seconds(self.plan)
        where = "before its save was done"
        if self.monitor.asked_after is None:
            where = "in the middle of a save" if saving else "in the middle of a step"
        if not self.monitor.started:
            self._stop_at_once(BEFORE_THE_FIRST_STEP)
        elif self.insisted:
            self._stop_at_once(f" at once, {where}")
        elif self.patience.seconds() > grace:
            self._stop_at_once(f" {where}, which did not end within {grace:.0f} s (--grace-seconds)")

    def _stop_at_once(self, how: str) -> None:
        self.stopped_early = self.stopped_early or how
        self._leave_nothing_running()

    def _stop_if_hung(self) -> None:
        """End a run in which nothing has happened for --timeout-minutes, with every rank's stacks in its log."""
        limit = 60 * float(self.plan.settings.timeout_minutes or 0)
        if not limit or self.hung or not (allowed := self.silence.too_long(limit)):
            return
        ranks = self._ranks()
        stopped = [number for number, rank in enumerate(ranks) if liveness.is_stopped(rank)]
        self.hung = f"no step for {allowed / 60:g} min"
        if stopped:
            self.hung += f"; rank {', '.join(map(str, stopped))} was stopped (SIGSTOP)"
        self.monitor.note(f"{self.hung}: writing all ranks' stacks to their logs and ending them")
        liveness.end_hung(ranks)
        self._leave_nothing_running()

    def _ranks(self) -> list[psutil.Process]:
        """The training processes in the order of their ranks: children of torchrun."""
        found: list[psutil.Process] = []
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now
                found = psutil.Process(self.process.pid).children()
        return sorted(found, key=rank.number)

    def _alive(self) -> list[psutil.Process]:
        """torchrun, the ranks and what they forked, as far as they have not ended; those too whose parent has."""
        found = [child for child in psutil.Process().children() if child not in self.before]
        for child in list(found):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += child.children(recursive=True)
        return [process for process in found if _status(process) not in ("", psutil.STATUS_ZOMBIE)]

    def _leave_nothing_running(self) -> None:
        """End every process of this start at once. Asked again until there is none: one that is ended may just have forked."""
        end = time.monotonic() + GONE_SECONDS
        while (alive := self._alive()) and time.monotonic() < end:
            for process in alive:
                liveness.send(process, signal.SIGKILL)
            time.sleep(0.05)
        for child in psutil.Process().children():
            if child not in self.before and (self.process is None or child.pid != self.process.pid):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)  # a rank that has outlived torchrun

    # -- the end --------------------------------------------------------------------------------------------------

    @property
    def _finished(self) -> bool:
        return self.monitor.end == "finished" and self.torchrun in (0, None) and not self.insisted

    @property
    def _asked(self) -> int:
        """The signal that asked the run, or only its ranks, to stop; 0 for none."""
        return self.asked or (self.monitor.stopped_by if self.monitor.end == "stopped" else 0) or 0

    def _verdict(self) -> int:
        """0 only for a run that has its end. Raises Failure for one that ended by itself without it."""
        if self._finished:
            if self.asked and (self.plan.settings.export_hf or self.plan.settings.sample):
                # the last step was under way: what would follow is what was asked to stop
                self.monitor.note("stopped: the training is done; the same command exports its model")
                return 128 + self.asked
            return 0
        saved = what_is_saved(self.plan.folder, self.monitor.last_step)
        if self._asked:
            if any(self.attempt.glob("rank*.error")):
                Meter(sys.stderr, outlive=True).note(f"while stopping: {explain_failure(self.attempt)}")
            self.monitor.note(f"stopped{'' if self._saved_when_asked() else self.stopped_early}: {saved}")
            return 128 + self._asked
        if self.monitor.started:
            self.monitor.note(saved)
        raise Failure(self._why_failed())

    def _why_failed(self) -> str:
        """Why a start has ended by itself without its end."""
        if self.hung:
            return f"{self.hung}; all ranks' stacks are in {self.attempt}/rank*.log"
        if self.torchrun is not None and self.torchrun < 0:
            name = signal.Signals(-self.torchrun).name
            return f"torchrun, which runs the ranks, was ended by {name}; logs: {self.attempt}{killer(-self.torchrun)}"
        if self.torchrun == 0:
            return f"the ranks ended without an error before the last step; logs: {self.attempt}"
        return explain_failure(self.attempt)

    def _saved_when_asked(self) -> bool:
        """Whether the step that the ranks stopped after is saved: who ended them then only ended their leaving."""
        asked_after = self.monitor.asked_after
        newest, _ = newest_whole(self.plan.folder / "checkpoints")
        return asked_after is not None and newest is not None and newest.step >= asked_after


def _send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        liveness.send(process, number)


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.Error:
        return ""


@contextlib.contextmanager
def _plain_path(folder: Path) -> Iterator[Path]:
    """A path to `folder` of plain letters: nemo_run and PYTHONPATH trip over quotes, colons and the like."""
    if re.fullmatch(r"[A-Za-z0-9_./+=@-]+", str(folder)):
        yield folder
        return
    with scratch.scratch_folder() as place:
        link = place / "attempt"
        link.symlink_to(folder)
        yield link
