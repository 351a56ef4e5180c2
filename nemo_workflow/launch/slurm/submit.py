"""Submit a plan to Slurm: preflight, the folder of the start, nemo_run, and what the user needs to know."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nemo_workflow.backends.patching import replace_on
from nemo_workflow.backends.registry import find
from nemo_workflow.config.flags import TABLE
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.settings import Settings
from nemo_workflow.launch import local
from nemo_workflow.launch.corpus_plan import CorpusPlan
from nemo_workflow.launch.nemo_run_import import quiet_experiment
from nemo_workflow.launch.slurm import preflight, script
from nemo_workflow.launch.slurm.cluster import UNKNOWN, Cluster, JobState, cluster_name, state_of, without_slurm
from nemo_workflow.launch.slurm.script import Link
from nemo_workflow.run_dir import slurm_jobs
from nemo_workflow.run_dir.slurm_jobs import Job
from nemo_workflow.training import resume
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import written_aside
from nemo_workflow.utils.folder_kinds import PLAN
from nemo_workflow.utils.processes import handled

SLURM_INPUT = "SBATCH_"


def run_slurm(plan: Plan, settings: Settings) -> int:
    """Submit the run, and follow it with --wait; returns the exit code. Raises Refusal before Slurm takes a job."""
    cluster = Cluster(plan.settings.ssh)
    notes = prepare_environment(cluster)
    refuse_second(plan.folder)
    notes += preflight.check(cluster, plan)
    if cluster.host:
        script.check_tunnel(plan)
    first = local.new_attempt(plan)
    preflight.test_script(cluster, script.job_script(plan, first))
    with local.locked(plan.folder):
        refuse_second(plan.folder)  # another start may have come first
        local.check_space(plan)
        notes += resume.check_changes(plan)[1]
        with signals_held_back():
            submitted = submit_chain(plan, first)
            for note in notes:
                print(f"note: {note}")
            print(announcement(plan, submitted), flush=True)
    if not settings.wait:
        return 0
    from nemo_workflow.launch.slurm.follow import follow

    return follow(plan, submitted)


def prepare_environment(cluster: Cluster) -> list[str]:
    """Take away what would override the job script; notes on variables that the user may miss in the job.

    Secrets go to the job by inheritance, so that no file holds them.
    """
    notes = [
        f"{name} in the environment is not used: the flags decide"
        for name in sorted(os.environ)
        if name.startswith(SLURM_INPUT)
    ]
    kept = without_slurm(dict(os.environ))
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    if cluster.host:
        notes += [
            f"{option.env} of this shell does not travel with --ssh; export it in a file that only you can read on the"
            " cluster, and source that file in --setup-file"
            for option in TABLE
            if option.env and os.environ.get(option.env)
        ]
    return notes


def refuse_second(run: Path) -> None:
    """Raise Refusal while a job of the run is pending or running, or where that can't be found out."""
    for job in reversed(slurm_jobs.jobs_of(run)):
        state = state_of(job)
        if state is not None and state.name == UNKNOWN:
            raise Refusal(
                f"--experiment {run.name}: Slurm can't be asked about its job {job.job_id} ({state.reason}); try again later,"
                f" choose another name, or if you know that the job is over, remove {job.attempt / slurm_jobs.FILE}"
            )
        if state is not None and not state.ended:
            raise Refusal(
                f"--experiment {run.name}: job {job.job_id} of it is {state.name.lower()}; wait for it, cancel it"
                f" ({control('cancel', run)}), or choose another name"
            )


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Act on Ctrl-C, SIGTERM and SIGHUP at the end of the block: a job that Slurm took must be recorded and announced."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    came: list[int] = []
    with handled(lambda number, frame: came.append(number), *numbers):
        # sbatch inherits the mask, for a terminal sends Ctrl-C to it too; other threads may still take a signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in came[:1]:
        signal.raise_signal(number)


def submit_chain(plan: Plan | CorpusPlan, first: Path) -> list[Job]:
    submitted: list[Job] = []
    for number in range(1, plan.settings.chain + 1):
        attempt = first if number == 1 else first.with_name(f"{first.name}-link{number}")
        link = Link(number, plan.settings.chain, submitted[-1].job_id if submitted else None)
        try:
            submitted.append(_submit(plan, attempt, link))
        except Failure:
            raise
        except Exception as error:  # noqa: BLE001 - nemo_run lets its shell's and Slurm's errors through
            shutil.rmtree(attempt, ignore_errors=True)
            words = _reason(error)
            if not submitted:
                raise Refusal(f"the job was not submitted: {words}") from None
            ids = ", ".join(job.job_id for job in submitted)
            raise Failure(f"Slurm accepted {ids} and refused link {number} of --chain: {words}") from None
    return submitted


def _submit(plan: Plan | CorpusPlan, attempt: Path, link: Link) -> Job:
    """Write the attempt's folder and hand it to nemo_run."""
    made = script.executor(plan, attempt, link)
    if isinstance(plan, CorpusPlan):
        attempt.mkdir(parents=True)
        local.copy_code(attempt)
    else:
        local.prepare(plan, attempt)
    write_attempt(plan, attempt)
    import nemo_run as run

    home = script.launcher_home(plan)
    experiment = quiet_experiment(run, home, script.experiment_id(attempt))
    entrypoint, path, *arguments = script.command(plan)
    cluster = Cluster(plan.settings.ssh)
    numbers: list[Submitted] = []
    with contextlib.redirect_stdout(io.StringIO()), experiment:  # its own progress says less than ours
        experiment.add(
            run.Script(path=path, entrypoint=entrypoint, args=arguments), executor=made, name=slurm_jobs.TASK
        )
        _show_only_the_number(experiment.jobs[0].executor.tunnel, cluster, attempt, numbers)
        experiment.run(detach=True)
    (number,) = numbers
    found = cluster.job(number.job_id) or JobState(UNKNOWN)
    job = Job(
        attempt=attempt,
        job_id=number.job_id,
        experiment_id=script.experiment_id(attempt),
        host=cluster.host,
        submitted=found.submitted or time.time(),
        link=link.number,
        chain=link.chain,
        name=slurm_jobs.job_name(plan.folder.name),
        uid=found.uid,
        cluster=number.cluster or cluster_name(cluster.host),
    )
    slurm_jobs.record(job)
    if not plan.settings.requeue:  # nemo_run passes --requeue to sbatch whatever we ask for
        cluster.ask("scontrol", "update", f"JobId={job.job_id}", "Requeue=0")
    return job


@dataclass(frozen=True)
class Submitted:
    """What sbatch made of a script; `cluster` is empty where it named none."""

    job_id: str
    cluster: str = ""


def _show_only_the_number(tunnel: Any, cluster: Cluster, attempt: Path, numbers: list[Submitted]) -> None:
    """Let nemo_run, which takes all that sbatch prints for the job's number, see nothing else; add it to `numbers`.

    Sites wrap sbatch, and a login shell may greet: more lines come before or after the number.
    """
    replace_on(find("launch.slurm.submit:only_the_number"), tunnel, partial(only_the_number, cluster, attempt, numbers))


def only_the_number(cluster: Cluster, attempt: Path, numbers: list[Submitted], run: Any) -> Any:
    """A tunnel's `run` that gives of sbatch's output the job's number alone, and adds it to `numbers`."""

    def run_and_read(command: str, *arguments: Any, **keywords: Any) -> Any:
        result = run(command, *arguments, **keywords)
        if command.startswith("sbatch "):
            numbers.append(_submitted(cluster, result.stdout, attempt))
            result.stdout = numbers[-1].job_id
        return result

    return run_and_read


def _submitted(cluster: Cluster, said: str, attempt: Path) -> Submitted:
    """The job that sbatch has just submitted: by its last line NUMBER[;CLUSTER], else by its name. Raises Failure."""
    found = [match for line in said.splitlines() if (match := re.fullmatch(r"(\d+)(?:;([\w.-]+))?", line.strip()))]
    if found:
        read = Submitted(found[-1][1], found[-1][2] or "")
        state = cluster.job(read.job_id)
        if state is None or not state.output or attempt.name in state.output.split("/"):
            return read
    name = slurm_jobs.job_name(attempt.parent.parent.name)
    for job_id in cluster.ask("squeue", "-h", "-n", name, "-o", "%A").out.split():
        state = cluster.job(job_id) if job_id.isdigit() else None
        if state is not None and attempt.name in state.output.split("/"):
            return Submitted(job_id)
    raise Failure(
        f"sbatch succeeded but printed no job number, only {said.strip()!r}; squeue knows no job {name} of this start. Look for it"
        f" with `squeue -n {name}`: if it is there, the job runs; scancel ends it"
    )


def write_attempt(plan: Plan | CorpusPlan, attempt: Path) -> None:
    """Put into the attempt what the job reads besides the copy of our code: its plan, the ranks' start, --setup-file."""
    with written_aside(attempt / PLAN) as stream:
        stream.write(plan.to_json())
    kind = "corpus" if isinstance(plan, CorpusPlan) else "slurm"
    shutil.copyfile(Path(__file__).parents[1] / kind / "rank.py", attempt / "code" / "rank.py")
    if plan.settings.setup_file:
        shutil.copyfile(Path(plan.settings.setup_file).expanduser(), attempt / script.SETUP)


def _reason(error: Any) -> str:
    """Slurm's words out of the exception of nemo_run's shell, or the exception's own."""
    result = getattr(error, "result", None)
    text = getattr(result, "stderr", "") or str(error) or type(error).__name__
    return text.strip().splitlines()[-1]


def control(command: str, run: Path) -> str:
    """The command line of `runs COMMAND` for a run."""
    return f"python -m nemo_workflow.runs --output-dir {shlex.quote(str(run.parent))} {command} {run.name}"


def announcement(plan: Plan | CorpusPlan, submitted: list[Job]) -> str:
    """What a person needs after submitting."""
    lines = []
    for job in submitted:
        link = f" (link {job.link} of {job.chain})" if job.chain > 1 else ""
        lines.append(f"job {job.job_id}{link}, experiment {job.experiment_id}")
        lines.append(f"  logs    {job.attempt}/log-*_{job.job_id}_*.out, rank*.log")
    lines += [
        f"  follow  {control('logs -f', plan.folder)}",
        f"  status  {control('status', plan.folder)}",
        f"  cancel  {control('cancel', plan.folder)}",
    ]
    return "\n".join(lines)
