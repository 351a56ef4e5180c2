"""preprocess_data.sh and `python -m nemo_workflow.preprocess`: on this machine, or as a Slurm job."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from nemo_workflow.config.command_line import add_flag
from nemo_workflow.config.flags import BY_ATTRIBUTE, SLURM, TABLE
from nemo_workflow.config.synonyms import MEANINGS
from nemo_workflow.launch.corpus_plan import EXPERIMENT
from nemo_workflow.preprocess import command
from nemo_workflow.utils import scratch
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Refusal, os_errors_refused

# The flags of pretrain_llm.py that this command has too.
FLAGS = tuple(
    option for option in TABLE if option.group == SLURM or option.name in ("executor", "experiment", "num-nodes")
)
HELP = {
    "executor": "where to run: this machine (default), or a Slurm cluster",
    "experiment": f"name of the job and of its folder below --output-dir (default: {EXPERIMENT})",
    "num-nodes": "nodes that share the work (default 1)",
    "requeue": "how many times to requeue the job automatically: after the time limit, a preemption or the loss of its first node",
    "stop-before": "seconds before the time limit at which the nodes stop (default 300)",
}


def parser() -> Parser:
    """The flags of the command on one machine, and those of a job."""
    made = command.parser()
    ours = {f"did you mean --{option.name}?" for option in FLAGS}
    made.meanings = {flag: said for flag, said in MEANINGS.items() if said in ours} | made.meanings
    group = made.add_argument_group("several machines (Slurm); what the nodes see must lie under the same paths")
    for option in FLAGS:
        add_flag(group, option, default=argparse.SUPPRESS, text=HELP.get(option.name))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, run or submit."""
    args = parser().parse_args(argv)
    given = {option.attribute: vars(args).pop(option.attribute) for option in FLAGS if option.attribute in vars(args)}
    slurm = given.get("executor") == "slurm"
    workers = args.workers
    with os_errors_refused(f"--output-dir {args.output_dir}"):
        command.check(args)
    if not slurm:
        _refuse_alone(given)
        return command.run(args)
    args.workers = workers  # unset, each node has its own number
    from nemo_workflow.launch.corpus.submit import submit

    return submit(args, given)


def main_and_leave() -> None:
    """Everything is on disk then, and Python would take a tenth of a second to free what the tokenizer holds."""
    code = main()
    scratch.remove_empty()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refuse_alone(given: dict[str, Any]) -> None:
    """A flag of a job without one would be dropped in silence."""
    lone = [name for name in given if name != "executor"]
    if lone:
        names = [f"--{BY_ATTRIBUTE[name].name}" for name in lone]
        raise Refusal([f"{name}: only for --executor slurm; leave it out, or add --executor slurm" for name in names])
