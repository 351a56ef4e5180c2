"""Subcommands that follow and steer a run: status, logs, cancel, resubmit. For local and Slurm runs alike."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nemo_workflow import REPOSITORY
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.settings import Settings
from nemo_workflow.launch.corpus.follow import KEPT
from nemo_workflow.launch.failures import explain_failure
from nemo_workflow.launch.slurm.cluster import ANOTHERS, cancel, state_of
from nemo_workflow.launch.slurm.ending import why_ended
from nemo_workflow.run_dir import metrics, slurm_jobs, starting
from nemo_workflow.run_dir.checkpoints import newest_whole, save_under_way
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.run_dir.slurm_jobs import Job
from nemo_workflow.training import liveness
from nemo_workflow.utils.arguments import value_on_line
from nemo_workflow.utils.console import human_time
from nemo_workflow.utils.errors import STOPPED, Failure, Refusal
from nemo_workflow.utils.files import absolute, from_here, no_such_folder
from nemo_workflow.utils.folder_kinds import PLAN, is_run
from nemo_workflow.utils.machine import user_described

FEW = 5  # runs that a refusal names
OUTPUT_DIR = Settings.output_dir  # where runs are looked for, as training writes them there
AGAIN = (
    "start a run again with its own flags; it continues where it was. A local run trains in this terminal, as pretrain_llm.py does:"
    " Ctrl-C stops it with a checkpoint"
)
ENDED_BY_LOCAL_CANCEL = 120.0  # seconds that a local run may take to finish its step; a save is waited for


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser; each sets `run`, a function of the parsed arguments."""
    _command(commands, "status", "where a run stands: its job or process, step, loss, checkpoint", _status)
    logs = _command(commands, "logs", "print a run's log", _logs)
    logs.add_argument("-f", "--follow", action="store_true", help="keep printing until the run ends")
    logs.add_argument("--rank", type=int, metavar="N", help="the log of rank N instead of the run's progress")
    cancel = _command(commands, "cancel", "stop a run after its step, with a checkpoint", _cancel)
    cancel.add_argument("--now", action="store_true", help="at once, without a checkpoint")
    again = _command(commands, "resubmit", AGAIN, _resubmit)
    again.add_argument("flags", nargs=argparse.REMAINDER, help="flags of pretrain_llm.py that replace the run's own")


def _command(commands: Any, name: str, text: str, function: Any) -> Any:
    made = commands.add_parser(name, help=text, description=text)
    made.add_argument("name", help="experiment, Slurm job id, the experiment id that was printed, or a run's folder")
    made.set_defaults(run=function)
    return made


# -- which run --------------------------------------------------------------------------------------------------------


def run_folder(run: Path, output_dir: str = OUTPUT_DIR) -> Path:
    """A run by its folder, else by its name below `output_dir`, though another folder here is called so. Raises Refusal."""
    folder = run.expanduser()
    if folder.is_dir() and (is_run(folder) or not is_run(absolute(output_dir) / run)):
        return folder
    return find_run(output_dir, str(run))


def find_run(output_dir: str, name: str) -> Path:
    """The folder of a run by its experiment's name, a job id, an experiment id, or its path; raises Refusal."""
    root = absolute(output_dir)
    for folder in (root / name, absolute(name)):
        if (folder / PLAN).is_file() or corpus_jobs(folder):
            return folder
    runs = sorted({*(path.parent for path in root.glob(f"*/{PLAN}")), *filter(corpus_jobs, root.glob("*"))})
    for run in runs:
        if any(name in (job.job_id, job.experiment_id) for job in slurm_jobs.jobs_of(run)):
            return run
    if "/" in name:
        what = "no run in this folder" if Path(name).expanduser().is_dir() else no_such_folder(name)
        raise Refusal(f"{name}: {what}; give a run's, <output-dir>/<experiment>")
    if not root.is_dir():
        raise Refusal(f"{name}: no such run; {no_output_dir(root)}")
    known = f"there are: {', '.join(run.name for run in runs)}" if runs else "it holds no runs"
    raise Refusal(f"{name}: no such run below {root} (--output-dir); {known}")


def newest_names(output_dir: str) -> list[str]:
    """The runs below a folder by name, the one that was last at work first. Looks at the times of two files of each, not into them."""
    moments = {}
    for plan in absolute(output_dir).glob(f"*/{PLAN}"):
        with contextlib.suppress(OSError):  # removed meanwhile, or without a step
            moments[plan.parent.name] = plan.stat().st_mtime
            moments[plan.parent.name] = (plan.parent / metrics.FILE).stat().st_mtime
    return sorted(moments, key=lambda name: (-moments[name], name))


def there_are() -> str:
    """'the newest runs are NAME, …', of those below this command line's --output-dir; '' where there is none."""
    names = newest_names(value_on_line("--output-dir", OUTPUT_DIR))
    more = f" and {len(names) - FEW} more ({typed('list')})" if len(names) > FEW else ""
    first = "the newest runs are" if more else "the runs are" if len(names) > 1 else "the one run is"
    return f"{first} {', '.join(map(shlex.quote, names[:FEW]))}{more}" if names else ""


def named_so(name: str) -> bool:
    """Whether there is a run of this name below this command line's --output-dir."""
    return (absolute(value_on_line("--output-dir", OUTPUT_DIR)) / name / PLAN).is_file()


def of_several(command: str, names: list[str]) -> str:
    """Which command takes several runs, behind what refuses them: '; python -m nemo_workflow.runs compare A B …', or nothing."""
    if command in ("show", "report"):
        return f"; {typed('compare', *names)} puts them side by side"
    return f"; {typed('list')} shows all" if command == "status" else ""


def typed(*words: str, module: str = "runs") -> str:
    """A command of ours for the runs of this command line's --output-dir, as it can be typed."""
    place = value_on_line("--output-dir", OUTPUT_DIR)
    there = [] if place == OUTPUT_DIR else ["--output-dir", place]
    return shlex.join(["python", "-m", f"nemo_workflow.{module}", *there, *words])


def no_output_dir(root: Path) -> str:
    """The refusal of a folder of the experiments that isn't there."""
    inside = any(root.parent.glob(f"*/{PLAN}")) and root.parent == Path.cwd()
    here = ", as this folder is: --output-dir ." if inside else ""
    if root.parent == Path.cwd() and is_run(Path.cwd()):
        here = "; this folder is a run's: --output-dir .."
    return f"--output-dir {root}: no such folder{from_here(root)}; give the one that the runs were started with{here}"


def corpus_jobs(run: Path) -> list[Job]:
    """The jobs of a folder that preprocess_data.sh --executor slurm made."""
    return [] if (run / PLAN).is_file() else slurm_jobs.jobs_of(run)


def plan_of(run: Path) -> Plan:
    """The plan of a run, with the folder where it lies now: it may have been moved or copied."""
    if corpus_jobs(run):
        raise Refusal(f"{run.name}: a preprocessing job; run the command that submitted it again, and it continues")
    return replace(Plan.from_json((run / PLAN).read_text(encoding="utf-8")), run_dir=str(absolute(run)))


def opened(run: Path) -> RunFolder:
    """A run's folder, with eyes for the processes of this machine that work on it."""
    return RunFolder(run, holder, partial(holder, lock=liveness.RANKS_LOCK))


def holder(run: Path, lock: str = liveness.RUN_LOCK) -> int | None:
    """The process of this machine that holds the run's lock, or None. Needs no change to the lock itself."""
    try:
        found = (run / lock).stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in lines:
        words = line.split()
        if "->" not in words and words[1] == "FLOCK" and words[5] == wanted:
            return int(words[4])
    return None


# -- status -----------------------------------------------------------------------------------------------------------


def _status(arguments: Any) -> int:
    run = find_run(arguments.output_dir, arguments.name)
    corpus = bool(corpus_jobs(run))
    print(run)
    for job in slurm_jobs.latest(run):
        print(f"  {_job_line(job)}")
    if not slurm_jobs.latest(run):
        pid = holder(run)
        state = opened(run).state
        here = f" on this machine, process {pid}" if pid is not None else ""
        print(f"  {state.name}{here}{f': {state.why}' if state.why else ''}")
    if corpus:
        return 0
    print(f"  {_progress(plan_of(run))}")
    newest, complaints = newest_whole(run / "checkpoints")
    print(f"  newest checkpoint: {newest.path}" if newest else "  no checkpoint yet")
    for complaint in complaints:
        print(f"  {complaint}")
    return 0


def _job_line(job: Job) -> str:
    state = state_of(job)
    text = f"job {job.job_id}"
    if job.chain > 1:
        text += f" (link {job.link} of {job.chain})"
    if state is None or state.name == ANOTHERS:
        code = job.exit_code(job.restarts)
        left = f"; its script ended with code {code}" if code is not None else ""
        why = why_ended(job, state)
        gone = f", {state.reason}" if state else ""
        return f"{text}: Slurm no longer knows it{gone}{left}{f' ({why})' if why else ''}"
    text += f": {state.name}"
    if state.nodes:
        text += f" on {state.nodes}"
    if state.reason:
        text += f" ({state.reason})"
    if job.restarts:
        text += f", restart {job.restarts}"
    if state.ended:
        text += f", exit code {state.exit_code}"
        if job.exit_code(job.restarts) == STOPPED:
            text += " (stopped when asked)"
        if why := why_ended(job, state):
            text += f": {why}"
    return text


def _progress(plan: Plan) -> str:
    steps = [event for event in metrics.read(plan.folder / metrics.FILE) if event["event"] == "step"]
    if not steps:
        return f"no step of {plan.schedule.max_steps} yet"
    age = time.time() - steps[-1]["time"]
    return f"{metrics.progress(steps[-1], plan.schedule.max_steps)}  ({human_time(age)} ago)"


# -- logs -------------------------------------------------------------------------------------------------------------


def _logs(arguments: Any) -> int:
    run = find_run(arguments.output_dir, arguments.name)
    if arguments.rank is not None:
        _check_rank(run, arguments.rank)
    starts = len(starting.folders_of(run))
    if starts > 1 and not slurm_jobs.latest(run):
        print(f"note: of the last of {starts} starts; the others' logs are in {run / 'attempts'}", file=sys.stderr)
    shown: dict[Path, int] = {}
    found = _print_new(run, arguments.rank, shown)
    try:
        while arguments.follow and active(run):
            time.sleep(1.0)
            found = _print_new(run, arguments.rank, shown) or found
        found = _print_new(run, arguments.rank, shown) or found
    except KeyboardInterrupt:
        return 130
    for folder in _last_folders(run) if arguments.rank is None and not active(run) else ():
        if any(folder.glob("rank*.error")):
            print(explain_failure(folder))
    if not found and not arguments.follow:
        what = f"rank {arguments.rank} has" if arguments.rank is not None else "the run has"
        state = opened(run).state
        raise Failure(f"{run.name}: {what} no log yet ({' '.join(filter(None, (state.name, state.why)))})")
    return 0


def _check_rank(run: Path, rank: int) -> None:
    ranks = plan_of(run).layout.ranks
    if not 0 <= rank < ranks:
        there = f"ranks 0 to {ranks - 1}; use one of them" if ranks > 1 else "one rank; use 0"
        raise Refusal(f"--rank {rank}: {run.name} has {there}")


def _print_new(run: Path, rank: int | None, shown: dict[Path, int]) -> bool:
    """Print what the logs of the last start gained since the last call; tells whether there was ever anything in them."""
    paths = _log_files(run, rank)
    for path in paths:
        with path.open("rb") as stream:
            stream.seek(shown.get(path, 0))
            text = stream.read()
            shown[path] = stream.tell()
        sys.stdout.write(text.decode("utf-8", errors="replace"))
    sys.stdout.flush()
    return any(shown.values())


def _log_files(run: Path, rank: int | None) -> list[Path]:
    if rank is not None:
        return [log for folder in _last_folders(run) if (log := folder / f"rank{rank}.log").is_file()]
    if latest := slurm_jobs.latest(run):
        return [path for job in latest for path in job.logs()]
    return [path for start in _last_folders(run) for path in _own_logs(start)]


def _own_logs(start: Path) -> list[Path]:
    """What the ranks of a start printed; without torchrun's copy of it, where they have files of their own."""
    paths = sorted(start.glob("launcher/**/stdout.log"))
    return [path for path in paths if "torchelastic" in path.relative_to(start).parts] or paths


def _last_folders(run: Path) -> list[Path]:
    """The folders of the last start's ranks: one, or one a link of a chain and a restart of a job."""
    if latest := slurm_jobs.latest(run):
        found = [job.folder(restart) for job in latest for restart in range(100)]
        return [folder for folder in found if folder.is_dir()]
    return starting.folders_of(run)[-1:]


def active(run: Path) -> bool:
    """Whether a process of this machine works on a run, or a Slurm job of it runs or waits."""
    if holder(run) is not None:
        return True
    states = [state_of(job) for job in slurm_jobs.latest(run)]
    return any(state is not None and not state.ended for state in states)


# -- cancel -----------------------------------------------------------------------------------------------------------


def _cancel(arguments: Any) -> int:
    run = find_run(arguments.output_dir, arguments.name)
    if original := _copied_from(run):
        raise Refusal(f"{run.name}: a copy of {original}, where the run itself is: {typed('cancel', original)}")
    active = [job for job in slurm_jobs.latest(run) if (state := state_of(job)) and not state.ended]
    for job in reversed(active):  # the waiting links of a chain first
        state = cancel(job, at_once=arguments.now)
        if state is not None and not state.ended:
            raise Failure(f"job {job.job_id} is still {state.name.lower()}; try again with --now")
        print(f"job {job.job_id} ended")
    pid = None if active else holder(run)
    if pid is not None:
        _stop_local(run, pid, arguments.now)
    elif not active:
        raise Refusal(f"{run.name}: not running, nothing to cancel")
    newest, _ = newest_whole(run / "checkpoints")
    if corpus_jobs(run):
        print(f"{run.name}: {KEPT}")
    else:
        print(f"{run.name}: step {newest.step} is saved" if newest else f"{run.name}: no checkpoint was saved")
    return 0


def _tell_cancelled(run: Path) -> None:
    """Write down, for who looks later, who ended the newest start with `runs cancel`."""
    for attempt in starting.folders_of(run)[-1:]:
        with contextlib.suppress(OSError):  # a full disk
            slurm_jobs.cancelled_mark(attempt).write_text(user_described(os.geteuid()))


def _copied_from(run: Path) -> str:
    """Where the run lies of which this folder is a copy; '' where it is none. Its Slurm jobs are that run's."""
    written = _written_in(run)
    return str(written) if (written / PLAN).is_file() and not _is(run, written) else ""


def _written_in(run: Path) -> Path:
    """The folder that a run's files were written in, which its config.yaml names, too; `run` where nothing tells."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return Path(json.loads((run / PLAN).read_text(encoding="utf-8"))["run_dir"])
    return run


def _is(run: Path, other: Path) -> bool:
    """Whether two paths lead to one folder; one that isn't there is another."""
    with contextlib.suppress(OSError):
        return run.samefile(other)
    return False


def _stop_local(run: Path, pid: int, at_once: bool) -> None:
    """Ask the launcher to stop; again and again where it shall not save, for it takes two that come together for one."""
    end = time.monotonic() + ENDED_BY_LOCAL_CANCEL
    saves = time.monotonic() + liveness.SAVE_SECONDS
    asked = False
    while holder(run) == pid:
        if save_under_way(run / "checkpoints") and time.monotonic() < saves:
            end = time.monotonic() + ENDED_BY_LOCAL_CANCEL
        if time.monotonic() > end:
            raise Failure(f"process {pid} did not end within {ENDED_BY_LOCAL_CANCEL:.0f} s; try again with --now")
        if at_once or not asked:
            _tell_cancelled(run)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            asked = True
        time.sleep(0.3)
    print(f"process {pid} ended")


# -- resubmit ---------------------------------------------------------------------------------------------------------


def _resubmit(arguments: Any) -> int:
    if arguments.flags and not arguments.flags[0].startswith("-"):
        raise Refusal(
            f"{arguments.flags[0]}: resubmit takes one run at a time; flags of pretrain_llm.py may stand behind it"
        )
    run = find_run(arguments.output_dir, arguments.name)
    script = REPOSITORY / "pretrain_llm.py"
    settings = plan_of(run).settings
    past = [] if settings.dependency is None else ["--dependency="]  # the old job's is over
    if not _is(run, written := _written_in(run)):
        print(f"{run.name}: moved or copied from {written}; it goes on here")
        past += ["--experiment", run.name, "--output-dir", str(run.parent)]
    flags = [flag for flag in arguments.flags if flag != "--"]
    trains = holder(run) is None and (flags or opened(run).state.name != "finished")  # else it says why not
    if settings.executor == "local" and "slurm" not in flags and trains:
        print(f"{run.name} trains in this terminal; Ctrl-C stops it with a checkpoint")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(script), "--config", str(run / "config.yaml"), *past, *flags])
