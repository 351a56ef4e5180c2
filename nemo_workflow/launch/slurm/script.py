"""Plan -> nemo_run's SlurmExecutor -> job script. The script that is shown, tested and submitted is one and the same."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nemo_workflow.config import containers
from nemo_workflow.config.checks.slurm import is_below, needed_folders, slurm_arguments
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.corpus_plan import CorpusPlan
from nemo_workflow.launch.local import new_attempt
from nemo_workflow.launch.nemo_run_import import TITLE, import_nemo_run
from nemo_workflow.launch.slurm import apptainer, login
from nemo_workflow.run_dir.slurm_jobs import TASK
from nemo_workflow.utils.errors import HUNG, STOPPED, Refusal

SETUP = "setup.sh"  # copy of --setup-file in the attempt
# The user's lines, in this shell: a last command that fails ends the job and is named, a last test that is false does not.
# DEBUG comes before every command, so that at the end nw_before is what the last one left. What the lines change of the
# shell's own settings and traps is put back.
SOURCE_SETUP = f"""# shellcheck disable=SC2034  # for the lines of --setup-file
attempt=$nw_attempt
nw_options=$(set +o)
nw_phase=setup nw_setup_code=
trap 'nw_failed="line $LINENO, $BASH_COMMAND"' ERR
# shellcheck disable=SC1090,SC2016
. <(printf '%s' "trap 'nw_before=\\$nw_failed nw_failed=' DEBUG; "; cat "$nw_attempt/{SETUP}"
    printf '\\n\\n%s\\n' 'nw_setup_code=$? nw_why=$nw_before nw_before=')
nw_left=$?
trap - ERR DEBUG
eval "$nw_options"
unset IFS
trap 'nw_told=yes' TERM
trap nw_finish EXIT
nw_before=$nw_why
if [ -n "$nw_why" ] || {{ [ -z "$nw_setup_code" ] && [ "$nw_left" -ne 0 ]; }}; then exit "${{nw_setup_code:-$nw_left}}"; fi
if [ "${{nw_setup_code:-0}}" -ne 0 ]; then
  echo "note: the last line of --setup-file is a test that was false (status $nw_setup_code); going on" >&2
fi
"""


@dataclass(frozen=True)
class Link:
    """A job's place in a chain, from 1, and the id of the job before it."""

    number: int = 1
    chain: int = 1
    parent: str | None = None

    @property
    def last(self) -> bool:
        return self.number == self.chain


def launcher_home(plan: Plan | CorpusPlan) -> Path:
    """Where nemo_run keeps its files; its Experiment.from_id finds a run with NEMORUN_HOME set to this."""
    return plan.folder / "slurm"


def experiment_id(attempt: Path) -> str:
    """nemo_run's id of the experiment that an attempt is submitted as."""
    return f"{TITLE}_{attempt.name}"


def job_script(plan: Plan | CorpusPlan, attempt: Path | None = None, link: Link | None = None) -> str:
    """The text that sbatch gets for a start in `attempt` (None: one that begins now). Writes nothing."""
    attempt = attempt or new_attempt(plan)
    made = executor(plan, attempt, link or Link())
    identity = experiment_id(attempt)
    folder = launcher_home(plan) / "experiments" / TITLE / identity
    made.assign(identity, str(folder), task_id=TASK, task_dir=TASK)
    from nemo_run.core.execution.slurm import SlurmBatchRequest

    entrypoint, *arguments = command(plan)
    request = SlurmBatchRequest(
        launch_cmd=["sbatch", "--requeue", "--parsable"],
        jobs=[TASK],
        command_groups=[[" ".join([entrypoint, *arguments])]],
        executor=made,
        max_retries=0,
        extra_env={},
    )
    return request.materialize()


def command(plan: Plan | CorpusPlan) -> list[str]:
    """What srun starts once a rank; the variables are set in the script's own lines."""
    within = [apptainer.WITHIN] if containers.runtime(plan.settings) == containers.APPTAINER else []
    return [*within, '"$nw_python"', '"$nw_attempt/code/rank.py"', '"$nw_attempt"']


def executor(plan: Plan | CorpusPlan, attempt: Path, link: Link) -> Any:
    """The executor of one job, not yet assigned to an experiment."""
    run = import_nemo_run(launcher_home(plan))
    from nemo_run.core.execution.slurm import SlurmJobDetails

    settings = plan.settings
    contained = containers.runtime(settings) == containers.PYXIS
    return run.SlurmExecutor(
        account=settings.account,
        partition=settings.partition,
        job_name_prefix=f"{settings.experiment}.",
        time=settings.time,  # None leaves the limit to the partition, nemo_run's own default is ten minutes
        nodes=plan.layout.nodes,
        ntasks_per_node=plan.layout.ranks_per_node,
        gpus_per_node=_gpus_per_node(plan),
        qos=settings.qos,
        mem=settings.mem,
        exclusive=settings.exclusive or None,
        constraint=settings.constraint,
        signal=f"USR1@{settings.stop_before}" if settings.stop_before else None,
        additional_parameters=_more_parameters(plan, link) or None,
        **_shared_out(plan),
        container_image=image_name(settings.container_image) if contained else None,
        container_mounts=container_mounts(plan) if contained else [],
        container_env=[*variables(plan), *settings.container_env] if contained else None,
        env_vars={},  # nemo_run writes them unquoted and in capitals: ours are among the setup lines
        setup_lines=setup_lines(plan, attempt, link),
        packager=run.Packager(),  # ships nothing: the attempt holds a copy of our code, uncommitted changes included
        job_details=SlurmJobDetails(folder=str(attempt)),
        tunnel=_tunnel(plan),
        **_unless_unknown(run.SlurmExecutor, poll_estimated_start_time=False),
    )


def _shared_out(plan: Plan | CorpusPlan) -> dict[str, Any]:
    """For nodes that share out work: one that is lost, or fails, takes no other along."""
    if not isinstance(plan, CorpusPlan):
        return {}
    # nemo_run puts --wait=60 --kill-on-bad-exit=1 before these
    alone = ["--wait=0", "--kill-on-bad-exit=0", "--no-kill"]
    return {"cpus_per_task": plan.workers, "srun_args": alone}


def _unless_unknown(executor_class: type, **values: Any) -> dict[str, Any]:
    """The fields that this version of nemo_run has: `poll_estimated_start_time` came with 0.9."""
    known = {field.name for field in fields(executor_class)}
    return {name: value for name, value in values.items() if name in known}


def _tunnel(plan: Plan | CorpusPlan) -> Any:
    run = import_nemo_run(launcher_home(plan))
    base = launcher_home(plan)
    if not plan.settings.ssh:
        return run.LocalTunnel(job_dir=str(base / "experiments"))
    at = login.resolve(plan.settings.ssh)
    # the folders are the same ones there, and rsync must not copy files onto themselves
    return run.SSHTunnel(
        host=at.name, user=at.user, port=at.port, identity=at.identity, job_dir=str(base / "submitted")
    )


def check_tunnel(plan: Plan | CorpusPlan) -> None:
    """Raise Refusal where nemo_run's own ssh client can't log in: else it would ask for a password, and give up mute."""

    def refuse(*_: Any) -> None:
        raise Refusal("no password")

    tunnel = _tunnel(plan)
    tunnel.auth_handler = tunnel.fallback_auth_handler = refuse
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            tunnel.connect()
            tunnel.cleanup()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - paramiko's many, the socket's, and nemo_run's sys.exit
        why = f" ({error})" if isinstance(error, OSError) else ""
        raise Refusal(
            f"--ssh {tunnel.host}: ssh logs in, but nemo_run's own client (paramiko) does not{why}; it needs a key file or"
            " an agent, and reads no Include lines and no security keys in ~/.ssh/config: write a Host block for it"
            " into that file itself"
        ) from None


def _gpus_per_node(plan: Plan | CorpusPlan) -> int | None:
    if plan.accelerator != "gpu" or "gres" in slurm_arguments(plan.settings.slurm_arg):
        return None
    return plan.layout.ranks_per_node


def _more_parameters(plan: Plan | CorpusPlan, link: Link) -> dict[str, str | bool]:
    """Options of sbatch that SlurmExecutor has no argument for."""
    settings = plan.settings
    named = {
        "reservation": settings.reservation,
        "nodelist": settings.nodelist,
        "mail_type": settings.mail_type,
        "mail_user": settings.mail_user,
    }
    waits = [plan.settings.dependency] if plan.settings.dependency and link.number == 1 else []
    if link.parent:
        waits.append(f"afterok:{link.parent}")
    if waits:
        named["dependency"] = ",".join(waits)
        named["kill_on_invalid_dep"] = "yes"  # else a job whose parent failed waits for ever
    alone: dict[str, str | bool] = {"no_kill": True} if isinstance(plan, CorpusPlan) else {}
    return alone | {name: value for name, value in named.items() if value} | slurm_arguments(plan.settings.slurm_arg)


def image_name(image: str) -> str:
    """REGISTRY/IMAGE in enroot's own form, REGISTRY#IMAGE: before version 4.0 it looked for the former at Docker Hub."""
    registry, _, rest = image.partition("/")
    if rest and "." in registry.lstrip(".") and "#" not in image and "://" not in image:
        return f"{registry}#{rest}"
    return image


def container_mounts(plan: Plan | CorpusPlan) -> list[str]:
    """The mounts asked for, and one for each needed folder that they leave out."""
    mounts = list(plan.settings.container_mounts)
    for folder, _ in needed_folders(plan.settings, plan.sources):
        same = [source for source, target, *_ in (mount.split(":") for mount in mounts) if source == target]
        if not any(is_below(folder, source) for source in same):
            mounts.append(f"{folder}:{folder}")
    return mounts


def variables(plan: Plan | CorpusPlan) -> dict[str, str]:
    """Variables that every rank gets, none of them secret; the submitter's own travel by sbatch's --export=ALL."""
    if plan.accelerator == "cpu":
        return {"TOKENIZERS_PARALLELISM": "false"}
    from nemo_workflow.launch.ranks import GPU_VARIABLES

    return {"TOKENIZERS_PARALLELISM": "false", **GPU_VARIABLES}


def setup_lines(plan: Plan | CorpusPlan, attempt: Path, link: Link) -> str:
    """The script's own part before srun: variables, the rendezvous, and what happens when the ranks have ended."""
    runtime = containers.runtime(plan.settings)
    python = sys.executable if runtime == containers.NONE else "python"
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables(plan).items())
    values = {
        "run": shlex.quote(plan.run_dir),
        "attempt": shlex.quote(str(attempt)),
        "python": shlex.quote(python),
        "requeue": str(plan.settings.requeue),
        "after_stop": str(STOPPED) if link.last else "0",
        "stopped": str(STOPPED),
        "hung": str(HUNG),
        "exports": exports,
        "setup": SOURCE_SETUP if plan.settings.setup_file else "",
        "container": apptainer.lines(plan, container_mounts(plan)) if runtime == containers.APPTAINER else "",
    }
    text = Path(__file__).with_name("job_lines.sh.template").read_text(encoding="utf-8").rstrip("\n")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
