"""config.yaml: the flags of a run, written beside its logs; `--config` on it gives the same run."""

from __future__ import annotations

import shlex
from typing import Any

from nemo_workflow import REPOSITORY
from nemo_workflow.config.config_file import WORKED_OUT
from nemo_workflow.config.flags import BY_ATTRIBUTE, SLURM
from nemo_workflow.config.plan import Plan

# may have been chosen by --layout auto
LAYOUT = (
    "tensor_model_parallel_size",
    "sequence_parallel",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "first_stage_layers",
    "last_stage_layers",
    "context_parallel_size",
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
)

# what the plan works out from other flags, where it isn't given
FROM_OTHERS = {
    *LAYOUT,
    "expert_model_parallel_size",
    "max_steps",
    "micro_batch_size",
    "seq_length",
    "lr",
    "min_lr",
    "warmup_steps",
    "constant_steps",
    "decay_steps",
    "decay_style",
    "val_check_interval",
    "save_every",
}


def config_of(plan: Plan) -> dict[str, Any]:
    """Flag names and values: what the user gave, and what the plan worked out for the flags left out."""
    schedule, public = plan.schedule, plan.settings.public()
    values: dict[str, Any] = {
        "executor": plan.settings.executor,
        "experiment": plan.settings.experiment,
        "output_dir": plan.settings.output_dir,
        "accelerator": plan.accelerator,
        "num_nodes": plan.layout.nodes,
        "num_gpus": plan.layout.ranks_per_node,
        "model_name": plan.model_name,
        "max_steps": schedule.max_steps,
        "global_batch_size": plan.settings.global_batch_size,
        "micro_batch_size": plan.settings.micro_batch_size,
        "seq_length": plan.seq_length,
        "seed": plan.settings.seed,
        "split": plan.settings.split,
        "lr": schedule.lr,
        "min_lr": schedule.min_lr if schedule.kind != "constant" else None,
        "warmup_steps": schedule.warmup_steps,
        "val_check_interval": schedule.val_check_interval,
        "save_every": schedule.save_every,
        "keep_checkpoints": plan.settings.keep_checkpoints,
    }
    if plan.layout.expert > 1:
        values["expert_model_parallel_size"] = plan.layout.expert
    if schedule.decay_steps:
        values |= {"decay_steps": schedule.decay_steps, "decay_style": schedule.decay_style}
    if schedule.constant_steps:
        values["constant_steps"] = schedule.constant_steps
    if plan.settings.executor == "slurm":
        values |= {name: value for name, value in public.items() if BY_ATTRIBUTE[name].group == SLURM and value}
    values |= {name: public[name] for name in LAYOUT if public[name] != BY_ATTRIBUTE[name].default}
    values |= {name: public[name] for name in plan.given if name in public}
    return {name.replace("_", "-"): value for name, value in values.items() if value is not None}


def config_text(plan: Plan) -> str:
    """The YAML of `config_of`, and which of its values the plan has worked out."""
    import yaml

    script = shlex.quote(str(REPOSITORY / "pretrain_llm.py"))  # in full: the file is read from any folder
    head = f"# The flags of this run; start it again with: python {script} --config THIS_FILE\n"
    values = config_of(plan)
    given = set(plan.given) - plan.settings.worked_out
    found = [name for name in values if (attribute := name.replace("-", "_")) in FROM_OTHERS and attribute not in given]
    text = head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if not found:
        return text
    return f"{text}# what the plan worked out: of another run (-E) anew, where flags of the command line change it; after changes in this file take their lines out\n{WORKED_OUT}: {' '.join(found)}\n"
