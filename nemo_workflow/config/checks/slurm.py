"""What the flags of a Slurm run must meet, told from the flags alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_workflow.config import containers
from nemo_workflow.config.flags import BY_ATTRIBUTE, SLURM, TABLE
from nemo_workflow.config.settings import Settings
from nemo_workflow.data.blend import Source, name_and_place
from nemo_workflow.utils.files import absolute

PLAIN_PATH = re.compile(r"[\w./+@=-]+", re.ASCII)
PLAIN_NAME = re.compile(r"[\w.+@=-]+", re.ASCII)
REWRITTEN = "/nemo_run"  # nemo_run replaces it in a job script without a container
# a name or a flag with its value, wherever in the line; what a login command is told; Hugging Face's own form; a URL's password
SECRET = re.compile(
    r"""(?P<name>(?<!\w)\w*(?:TOKEN(?!S|IZ)|SECRET|PASSWORD|API_?KEY)(?!\w*_(?:PATH|FILE|DIR)=)\w*)=
            (?:['"]?[\w+/-]{8}|['"][^'"$`]{8})
      | (?<!\S)(?P<flag>--[\w-]*(?:token|password|api-key))\s+['"]?\w[\w+/-]{7}
      | (?P<command>\bwandb\s+login)\b[^;|&]*[\s'"][\w-]{32}
      | \bhf_[a-z0-9]{20}
      | ://[^\s/:@'"$]*:[^\s/:@'"$`]+@
    """,
    re.IGNORECASE | re.VERBOSE,
)
OWNED = {
    "account": "--account",
    "partition": "--partition",
    "nodes": "--num-nodes",
    "ntasks": "--num-gpus",
    "ntasks_per_node": "--num-gpus",
    "tasks_per_node": "--num-gpus",
    "gpus": "--num-gpus",
    "gpus_per_node": "--num-gpus",
    "time": "--time",
    "qos": "--qos",
    "mem": "--mem",
    "exclusive": "--exclusive",
    "constraint": "--constraint",
    "reservation": "--reservation",
    "nodelist": "--nodelist",
    "mail_type": "--mail-type",
    "mail_user": "--mail-user",
    "dependency": "--dependency",
    "signal": "--stop-before",
    "requeue": "--requeue",
    "no_requeue": "--requeue",
}
OURS = ("job_name", "output", "error", "open_mode", "array", "export", "export_file", "test_only", "wait", "parsable", "wrap",
        "chdir", "cluster", "clusters", "uid", "gid", "help", "usage", "version")  # fmt: skip
# every other long option of sbatch 22.05 to 25.05, for it takes any beginning of a name that is no other's
OTHERS = """acctg-freq batch bb bbf begin cluster-constraint comment container container-id context contiguous core-spec
    cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot distribution exclude extra extra-node-info
    get-user-env gpu-bind gpu-freq gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs input
    kill-on-invalid-dep licenses mcs-label mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill nodefile
    ntasks-per-core ntasks-per-gpu ntasks-per-socket ntasks-per-tres oom-kill-step overcommit oversubscribe power prefer
    priority profile propagate quiet reboot resv-ports segment sockets-per-node spread-job stepmgr switches thread-spec
    threads-per-core time-min tmp tres-bind tres-per-task use-min-nodes verbose wait-all-nodes wckey"""
SBATCH_OPTIONS = (*OWNED, *OURS, *OTHERS.replace("-", "_").split())


def find_problems(run: Any) -> Iterator[str]:
    """How a Slurm job can be watched, and what can travel to a login node."""
    settings = run.settings
    if settings.executor != "slurm":
        yield from _needs_slurm(settings)
        return
    yield from _paths(settings)
    yield from _time(settings)
    yield from _slurm_args(settings.slurm_arg)
    yield from _setup_file(settings.setup_file)
    yield from _containers(run)
    if settings.max_restarts:
        yield (
            f"--max-restarts {settings.max_restarts}: restarts on this machine only; with --executor slurm use --requeue, which"
            " brings a job back from its last checkpoint"
        )
    if settings.mail_user and not settings.mail_type:
        yield "--mail-user: Slurm mails of nothing without --mail-type; add it (END,FAIL), or leave this out"
    if settings.ssh and not re.fullmatch(r"([\w.-]+@)?[\w.-]+(:\d+)?", settings.ssh):
        yield f"--ssh {settings.ssh}: expected [USER@]HOST[:PORT]"
    if settings.ssh:
        for name in ("hf_token", "wandb_token"):
            if name in settings.given:
                yield (
                    f"--{name.replace('_', '-')}: can't be passed on by --ssh without being written down; export it in a"
                    " file that only you can read on the cluster, and name that file in --setup-file with `. FILE`"
                )


def _needs_slurm(settings: Settings) -> Iterator[str]:
    """A flag of sbatch without Slurm would be dropped in silence."""
    for option in TABLE:
        value = settings.of(option)
        if option.group == SLURM and option.attribute in settings.given and value not in (option.default, (), None, ""):
            yield f"--{option.name}: only for --executor slurm; leave it out, or add --executor slurm"


def _paths(settings: Settings) -> Iterator[str]:
    """nemo_run 0.9 writes these into its job script unquoted, or rewrites them."""
    folder = str(absolute(settings.output_dir))
    remedy = "nemo_run can't take it in a Slurm job; choose another folder"
    if not PLAIN_PATH.fullmatch(folder):
        yield f"--output-dir {folder}: contains a space or a character other than letters, digits and ./_+@=-: {remedy}"
    runtime = containers.runtime(settings)
    if runtime != containers.PYXIS and REWRITTEN in folder:
        yield f"--output-dir {folder}: holds {REWRITTEN}: {remedy}"
    if runtime == containers.NONE and REWRITTEN in sys.executable:
        yield f"--no-container: the path of this Python, {sys.executable}, holds {REWRITTEN}: nemo_run can't take it"
    if not PLAIN_NAME.fullmatch(settings.experiment):
        yield f"--experiment {settings.experiment!r}: with Slurm a name may hold only letters, digits and ._+@=-"


def seconds_of(limit: str) -> int:
    """Seconds of a time limit in Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, parts[0], parts[1] if len(parts) > 1 else 0
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _time(settings: Settings) -> Iterator[str]:
    """sbatch's own rules for the limit and for what the job waits for."""
    if settings.time and 0 < seconds_of(settings.time) <= settings.stop_before:
        yield (
            f"--time {settings.time}: not longer than the {settings.stop_before} s of --stop-before, in which the run"
            " saves and stops; raise --time or lower --stop-before"
        )
    if settings.dependency and re.search(r"\s", settings.dependency):
        yield f"--dependency {settings.dependency!r}: contains a space; Slurm's form is TYPE:JOB[:JOB][,TYPE:JOB]"


def slurm_arguments(arguments: tuple[str, ...] | list[str]) -> dict[str, str | bool]:
    """NAME=VALUE or NAME of --slurm-arg as sbatch options by name with underscores."""
    found: dict[str, str | bool] = {}
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        found[name.replace("-", "_")] = value if equals else True
    return found


def _slurm_args(arguments: tuple[str, ...]) -> Iterator[str]:
    """sbatch would take any of these; some are nemo_run's or ours, and the run could not be followed then."""
    for argument in arguments:
        (name,) = slurm_arguments([argument])
        if not re.fullmatch(r"[a-z][a-z_]*", name):
            yield f"--slurm-arg {argument}: expected NAME=VALUE with the long name of an sbatch option"
        elif name in OWNED:
            yield f"--slurm-arg {argument}: use {OWNED[name]}"
        elif name in OURS:
            yield f"--slurm-arg {argument}: can't be changed, following the run depends on it; leave it out"
        elif name not in SBATCH_OPTIONS and (meant := [one for one in SBATCH_OPTIONS if one.startswith(name)]):
            names = " or ".join(f"--{one.replace('_', '-')}" for one in meant[:3])
            yield f"--slurm-arg {argument}: sbatch would take it for {names}; write the name in full"
        elif not argument.isprintable():
            yield f"--slurm-arg {argument!r}: a line of the job script can't hold this; leave out what is not printable"


def _setup_file(path: str | None) -> Iterator[str]:
    """The file is copied into the run's folder, so it must be readable and hold no secret."""
    if not path:
        return
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield f"--setup-file {path}: cannot be read: {error}"
        return
    for number, line in enumerate(text.splitlines(), 1):
        found = SECRET.search(line)
        if found:
            what = f"the value of {found[found.lastgroup]}" if found.lastgroup else "a token or a password"
            yield (
                f"--setup-file {path}: line {number} holds {what}; the file is copied into the run's folder, so keep the"
                " value in a file that only you can read and write `. THAT_FILE` instead"
            )


def _containers(run: Any) -> Iterator[str]:
    """Containers get mounts as HOST:CONTAINER; what the ranks open must be seen under its own path."""
    settings = run.settings
    runtime = containers.runtime(settings)
    if settings.no_container and settings.container_runtime not in (None, containers.NONE):
        yield f"--no-container and --container-runtime {settings.container_runtime} can't be combined: leave one out"
        return
    if runtime == containers.NONE:
        flag = "--no-container" if settings.no_container else "--container-runtime none"
        for option in (BY_ATTRIBUTE[name] for name in ("container_image", "container_mounts", "container_env")):
            if settings.of(option) and settings.of(option) != option.default:
                yield f"--{option.name} and {flag} can't be combined: leave one out"
        return
    no_nemo = containers.problem(settings.container_image)
    if no_nemo:
        yield no_nemo
    if runtime == containers.APPTAINER:
        yield from _apptainer(settings)
    for mount in settings.container_mounts:
        if not re.fullmatch(r"/[^:,]*:/[^:,]*(:[^:,]+)?", mount):
            yield f"--container-mounts {mount}: expected HOST:CONTAINER[:FLAGS] with absolute paths and no comma"
    for folder, flag in needed_folders(settings, run.sources):
        for mount in settings.container_mounts:
            source, _, rest = mount.partition(":")
            target = rest.partition(":")[0]
            if source != target and is_below(folder, target):
                yield (
                    f"--container-mounts {mount}: hides {folder} ({flag}), which the job looks for under its own path;"
                    f" mount {source} elsewhere, or name the files by a path that is the same inside and outside"
                )
        if re.search(r"[:,]", folder):
            yield f"{flag} {folder}: a path with a colon or comma can't be mounted into a container; rename it"


def _apptainer(settings: Settings) -> Iterator[str]:
    """Which images and mounts Apptainer takes; enroot, which is pyxis's, writes both otherwise."""
    image = settings.container_image
    if image.endswith(".sqsh") or image.startswith("dockerd://"):
        yield (
            f"--container-image {image}: this is a form of enroot's; Apptainer takes a .sif file, which `apptainer build"
            " nemo.sif docker://IMAGE` makes, an unpacked folder, or docker://IMAGE"
        )
    elif not image.isprintable():
        yield f"--container-image {image!r}: a line of the job script can't hold this; leave out what is not printable"
    for mount in settings.container_mounts:
        flags = mount.split(":")[2:]
        if flags and flags not in (["ro"], ["rw"]):
            yield f"--container-mounts {mount}: Apptainer knows the flags ro and rw only"
    for name in settings.container_env:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            yield f"--container-env {name}: expected the name of a variable"


def is_below(path: str, folder: str) -> bool:
    """Whether a path is `folder` or lies in it."""
    return Path(path).is_relative_to(folder)


def needed_folders(settings: Settings, sources: Sequence[Source]) -> list[tuple[str, str]]:
    """Every folder that the ranks open, as an absolute path, and the flag it comes from."""
    found = [(_absolute(settings.output_dir), "--output-dir")]
    data = "--blend" if settings.blend else "--dataset-dir"
    for source in sources:
        for file in (Path(f"{source.pair.prefix}.bin"), Path(f"{source.pair.prefix}.idx")):
            found += [(str(file.absolute().parent), data), (str(file.resolve().parent), data)]  # a link's target too
    found += [(_absolute(name_and_place(word)[1]), "--validation-dir") for word in settings.validation_dir]
    if settings.decay_from:
        found.append((_absolute(settings.decay_from), "--decay-from"))
    if settings.nemo_model:
        found.append((_absolute(settings.nemo_model), "--nemo-model"))
    if Path(settings.hf_model_id).expanduser().is_dir():
        found.append((_absolute(settings.hf_model_id), "--hf-model-id"))
    else:
        cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
        if cache.is_dir():
            found.append((str(cache.absolute()), "HF_HOME"))
    return list(dict.fromkeys(found))


def _absolute(path: str) -> str:
    return str(absolute(path))
