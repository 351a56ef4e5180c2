"""Check, cut into pieces, and submit a preprocessing job."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from nemo_workflow.config import containers
from nemo_workflow.config.checks import slurm as slurm_checks
from nemo_workflow.config.settings import Settings
from nemo_workflow.launch import local
from nemo_workflow.launch.corpus_plan import EXPERIMENT, CorpusPlan, Nodes
from nemo_workflow.launch.slurm import preflight, script
from nemo_workflow.launch.slurm import submit as slurm
from nemo_workflow.launch.slurm.cluster import Cluster
from nemo_workflow.preprocess.asked import Asked, read_asked
from nemo_workflow.preprocess.node import Job
from nemo_workflow.preprocess.pieces import Finished, still_to_encode
from nemo_workflow.preprocess.run import check_end
from nemo_workflow.preprocess.startup import Loading
from nemo_workflow.preprocess.work import Work, still_to_do
from nemo_workflow.utils.console import counted, human_bytes
from nemo_workflow.utils.errors import Refusal, os_errors_refused
from nemo_workflow.utils.files import absolute

PIECES = ".pieces"  # folder of the pieces in the job's


def submit(args: argparse.Namespace, given: dict[str, Any]) -> int:
    """Submit the job for checked arguments, and follow it with --wait; returns the exit code. Raises Refusal."""
    args.output_dir = str(absolute(args.output_dir))
    lists = [name for name in ("slurm_arg", "container_mounts", "container_env") if name in given]
    given |= {"experiment": given.get("experiment", EXPERIMENT)} | {name: tuple(given[name]) for name in lists}
    cluster = Cluster(given.get("ssh"))
    notes = slurm.prepare_environment(cluster)
    asked = read_asked(args)
    with os_errors_refused(f"--output-dir {args.output_dir}"):
        todo = still_to_do(asked)
    plan = _plan(asked, todo, given)
    if not todo.groups:
        print(asked.nothing_to_do())
        return 0
    check_end(args, Loading(args, asked.tokenizer, todo.sources, asked.keys).reference()[0])
    problems = list(slurm_checks.find_problems(plan))
    if problems:
        raise Refusal(problems)
    slurm.refuse_second(plan.folder)
    notes += asked.notes + preflight.check(cluster, plan)
    if cluster.host:
        script.check_tunnel(plan)
    first = local.new_attempt(plan)
    preflight.test_script(cluster, script.job_script(plan, first))
    with local.locked(plan.folder):
        slurm.refuse_second(plan.folder)
        if args.overwrite:
            shutil.rmtree(plan.folder / PIECES, ignore_errors=True)
        with slurm.signals_held_back():
            submitted = slurm.submit_chain(plan, first)
            for note in [*notes, _announced(plan)]:
                print(f"note: {note}")
            print(slurm.announcement(plan, submitted), flush=True)
    if not given.get("wait"):
        return 0
    from nemo_workflow.launch.corpus.follow import follow_job

    return follow_job(submitted)


def _plan(asked: Asked, todo: Work, given: dict[str, Any]) -> CorpusPlan:
    nodes = given.get("num_nodes", 1)
    given |= {"accelerator": "cpu", "num_gpus": 1, "output_dir": asked.args.output_dir}
    given["hf_model_id"] = str(asked.tokenizer)
    given["exclusive"] = given.get("exclusive", False) or asked.args.workers is None
    if not given.get("no_container") and given.get("container_runtime") != containers.NONE:
        given["container_mounts"] = _mounts(asked, given.get("container_mounts", ()))
    settings = Settings(**given, given=frozenset(given))
    folder = Path(asked.args.output_dir) / settings.experiment
    place = folder / PIECES / asked.recipe[:16]
    finished = Finished(place, asked.names, asked.recipe, asked.args.on_error == "skip")
    fresh = [each for each in todo.sources if each.path not in todo.kept]
    job = Job(asked, still_to_encode(fresh, nodes, place, finished), place, folder / "progress")
    return CorpusPlan(settings, str(folder), Nodes(nodes), job.to_json(), asked.args.workers)


def _mounts(asked: Asked, mounts: tuple[str, ...]) -> tuple[str, ...]:
    """The mounts asked for, and the folders of the inputs and of what the tokenizer's files link to."""
    files = [*(each.path for each in asked.sources), *(path for path in asked.tokenizer.iterdir() if path.is_file())]
    folders = {str(place) for file in files for place in (file.absolute().parent, file.resolve().parent)}
    shortest = [
        one for one in sorted(folders) if not any(other != one and Path(one).is_relative_to(other) for other in folders)
    ]
    named = {mount.split(":")[0] for mount in mounts}
    return (*mounts, *(f"{one}:{one}" for one in shortest if one not in named))


def _announced(plan: CorpusPlan) -> str:
    """What the job will do."""
    size = sum(Path(row[0]).stat().st_size for row in plan.job["sources"])
    files, pieces = counted(len(plan.job["sources"]), "file"), counted(len(plan.job["pieces"]), "piece")
    return f"{files} of {human_bytes(size)}, {pieces} to encode on {counted(plan.layout.nodes, 'node')}"
