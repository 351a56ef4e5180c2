"""Submit a plan to Slurm: preflight, the folder of the start, nemo_run, and what the user needs to know."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.config.flags import TABLE, Settings
from nemo_workflow.config.run_config import Plan
from nemo_workflow.launch import local
from nemo_workflow.launch.slurm import preflight, script
from nemo_workflow.launch.slurm.cluster import Cluster, without_slurm
from nemo_workflow.launch.slurm.script import Link
from nemo_workflow.run_dir import slurm_jobs
from nemo_workflow.run_dir.slurm_jobs import Job
from nemo_workflow.training import resume
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import written_aside
from nemo_workflow.utils.processes import handled

SLURM_INPUT = "SBATCH_"


def run_slurm(plan: Plan, settings: Settings) -> int:
    """Submit the run, and follow it with --wait; returns the exit code. Raises Refusal before Slurm takes a job."""
    cluster = Cluster(plan.setting("ssh"))
    notes = _prepare_environment(cluster)
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
            submitted = _submit_chain(plan, first)
            for note in notes:
                print(f"note: {note}")
            print(announcement(plan, submitted), flush=True)
    if not settings.wait:
        return 0
    from nemo_workflow.launch.slurm.follow import follow

    return follow(plan, submitted)


def _prepare_environment(cluster: Cluster) -> list[str]:
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
    """Raise Refusal while a job of the run is pending or running."""
    for job in reversed(slurm_jobs.jobs_of(run)):
        state = Cluster(job.host).job(job.job_id)
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


def _submit_chain(plan: Plan, first: Path) -> list[Job]:
    submitted: list[Job] = []
    for number in range(1, plan.setting("chain") + 1):
        attempt = first if number == 1 else first.with_name(f"{first.name}-link{number}")
        link = Link(number, plan.setting("chain"), submitted[-1].job_id if submitted else None)
        try:
            submitted.append(_submit(plan, attempt, link))
        except Exception as error:  # noqa: BLE001 - nemo_run lets its shell's and Slurm's errors through
            shutil.rmtree(attempt, ignore_errors=True)
            words = _reason(error)
            if not submitted:
                raise Refusal(f"the job was not submitted: {words}") from None
            ids = ", ".join(job.job_id for job in submitted)
            raise Failure(f"Slurm took {ids} and refused link {number} of --chain: {words}") from None
    return submitted


def _submit(plan: Plan, attempt: Path, link: Link) -> Job:
    """Write the attempt's folder and hand it to nemo_run."""
    made = script.executor(plan, attempt, link)
    local.prepare(plan, attempt)
    write_attempt(plan, attempt)
    import nemo_run as run

    home = script.launcher_home(plan)
    experiment = run.Experiment(
        local.TITLE,
        id=script.experiment_id(attempt),
        base_dir=str(home),
        clean_mode=True,
        enable_goodbye_message=False,
        skip_status_at_exit=True,
        log_level="ERROR",
    )
    entrypoint, path, *arguments = script.command()
    with contextlib.redirect_stdout(io.StringIO()), experiment:  # its own progress says less than ours
        experiment.add(run.Script(path=path, entrypoint=entrypoint, args=arguments), executor=made, name=script.TASK)
        experiment.run(detach=True)
    job_id = experiment.jobs[0].handle.rpartition("/")[2].partition(";")[0]
    job = Job(
        attempt=attempt,
        job_id=job_id,
        experiment_id=script.experiment_id(attempt),
        host=plan.setting("ssh"),
        submitted=time.time(),
        link=link.number,
        chain=link.chain,
    )
    slurm_jobs.record(job)
    if not plan.setting("requeue"):  # nemo_run passes --requeue to sbatch whatever we ask for
        Cluster(job.host).ask("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    return job


def write_attempt(plan: Plan, attempt: Path) -> None:
    """Put into the attempt what the job reads besides the copy of our code: its plan, the ranks' start, --setup-file."""
    with written_aside(attempt / "plan.json") as stream:
        stream.write(plan.to_json())
    shutil.copyfile(Path(__file__).with_name("rank.py"), attempt / "code" / "rank.py")
    if plan.setting("setup_file"):
        shutil.copyfile(Path(plan.setting("setup_file")).expanduser(), attempt / script.SETUP)


def _reason(error: Any) -> str:
    """Slurm's words out of the exception of nemo_run's shell, or the exception's own."""
    result = getattr(error, "result", None)
    text = getattr(result, "stderr", "") or str(error) or type(error).__name__
    return text.strip().splitlines()[-1]


def control(command: str, run: Path) -> str:
    """The command line of `runs COMMAND` for a run."""
    return f"python -m nemo_workflow.runs --output-dir {run.parent} {command} {run.name}"


def announcement(plan: Plan, submitted: list[Job]) -> str:
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
