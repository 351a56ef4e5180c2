#!/usr/bin/env python3
"""Pretrain a language model with NVIDIA NeMo 2.0: flags -> plan -> recipe -> executor -> exit code."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from nemo_workflow.config import command_line
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.settings import Settings
from nemo_workflow.utils import libraries, startup
from nemo_workflow.utils.errors import Refusal, run_command


def main() -> int:
    settings = command_line.parse(sys.argv[1:], _steps_of)
    if settings.version:
        print(libraries.versions_said())
        return 0
    if settings.completion:
        from nemo_workflow.config import completion

        print(completion.script(settings.completion))
        return 0
    if launcher := startup.started_often():
        raise Refusal(
            f"{launcher}: this command starts the ranks itself: type python pretrain_llm.py with --num-gpus N, or with --executor"
            f" slurm on a cluster, without {launcher}"
        )
    with command_line.places_named(settings):
        return _run(settings)


def _steps_of(settings: Settings, epochs: float) -> int | None:
    from nemo_workflow.config.resolve import steps_of_epochs

    return steps_of_epochs(settings, epochs)


def _run(settings: Settings) -> int:
    if settings.list_models is not None:
        from nemo_workflow.models.catalog import listing

        print(listing(settings.list_models))
        return 0
    if settings.calibrate is not None:
        from nemo_workflow.runs.calibrate import calibrate

        print(calibrate(settings.output_dir, settings.calibrate))
        return 0
    from nemo_workflow.config.resolve import make_plan, suggestion
    from nemo_workflow.run_dir.branching import branch_of

    if settings.suggest is not None:
        print(suggestion(settings, command=sys.argv))
        return 0
    plan = make_plan(settings, command=sys.argv, branch=branch_of(settings))
    if settings.dry_run:
        from nemo_workflow.launch.dry_run import parts

        for part in parts(plan, settings.dry_run):
            print(part, flush=True)
        return 0
    command_line.export_secrets(settings)
    if settings.executor == "local":
        from nemo_workflow.models.hub import fetch_tokenizer

        if fetch_tokenizer(settings.hf_model_id):
            plan = make_plan(settings, command=sys.argv, branch=branch_of(settings))
    from nemo_workflow.training import resume

    finished_already = resume.finished_already(plan)
    for note in () if finished_already else plan.notes:
        print(f"note: {note}", file=sys.stderr)
    from nemo_workflow.launch import local
    from nemo_workflow.run_dir.checkpoints import newest_whole
    from nemo_workflow.run_dir.fingerprint import REFUSED

    if finished_already:
        for change in resume.check_changes(plan, allowed=REFUSED)[1]:
            print(f"note: {change}", file=sys.stderr)
        newest, _ = newest_whole(plan.folder / "checkpoints")
        step = newest.step if newest else plan.schedule.max_steps
        print(
            f"{plan.run_dir}: already trained to step {step}; a larger --max-steps continues it, another --experiment starts from the beginning"
        )
        code = 0
    elif settings.executor == "slurm":
        from nemo_workflow.launch.slurm.submit import run_slurm

        return run_slurm(plan, settings)
    else:
        code = local.run_local(plan)
    if code == 0 and settings.executor == "local":
        _afterwards(plan, told=finished_already)
    return code


def _afterwards(plan: Plan, told: bool) -> None:
    """The last words of a training that is done, unless an earlier start has told them, and the export and text that were to follow."""
    from nemo_workflow.utils.console import Meter, unwritten
    from nemo_workflow.utils.processes import left_on_a_signal

    more = bool(plan.settings.sample or plan.settings.export_hf)
    meter = Meter(sys.stdout, outlive=True)  # what follows is done though nobody can read of it
    with left_on_a_signal(f"the training is done{': the same command exports its model' if more else ''}"):
        from nemo_workflow.runs import finished

        if not told:
            meter.note("\n".join(finished.last_words(plan)))
        if more:
            from nemo_workflow.launch import local
            from nemo_workflow.runs import export, sample

            with local.locked(plan.folder):
                export.after_training(plan)
                if plan.settings.sample:
                    sample.after_training(plan)
            meter.note("\n".join(finished.after_export(plan)))
    if why := unwritten(sys.stdout):
        Meter(sys.stderr, outlive=True).note(f"note: the last of what was printed could not be written: {why}")
        unwritten(sys.stderr)  # the same file, often


def command() -> None:
    """pretrain-llm, as pip puts it on the path."""
    run_command(main)


if __name__ == "__main__":  # nemo_run runs this file again in every worker
    run_command(main)
