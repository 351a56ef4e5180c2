"""Plan -> values of recipe fields, by dotted path. recipe.py sets them, --dry-run compares them with the stock.

Only plain values are here. What needs NeMo's classes (precision plugin, data module, logger, resuming) is recipe.py's.
"""

from __future__ import annotations

from typing import Any

from nemo_workflow.config import optimizer_states
from nemo_workflow.config.flags import BY_ATTRIBUTE, TABLE
from nemo_workflow.config.parallelism import ends_of, layers_a_stage, pieces
from nemo_workflow.config.plan import Plan
from nemo_workflow.models import catalog
from nemo_workflow.models.catalog import LAYOUT_FIELDS

STRATEGY = "trainer.strategy"
MODEL = "model.config"
PIECES = f"{STRATEGY}.pipeline_model_parallel_layout"


def field_values(plan: Plan) -> dict[str, Any]:
    """Dotted recipe field -> value, for every flag with a value and for what the plan works out."""
    values: dict[str, Any] = {}
    for option in TABLE:
        value = plan.settings.of(option)
        if value is not None and value is not False:  # an unset switch leaves the recipe's own value
            values |= dict.fromkeys(option.sets, value)
    return values | _layout_values(plan) | _schedule_values(plan) | _offload_values(plan)


def _layout_values(plan: Plan) -> dict[str, Any]:
    layout, stock = plan.layout, catalog.find(plan.model_name).layout
    values: dict[str, Any] = {
        LAYOUT_FIELDS["nodes"]: layout.nodes,
        LAYOUT_FIELDS["gpus"]: layout.ranks_per_node,
        LAYOUT_FIELDS["expert"]: layout.expert,
        LAYOUT_FIELDS[
            "sequence_parallel"
        ]: layout.sequence_parallel,  # the guide's default is off, whatever the recipe's
        LAYOUT_FIELDS["virtual_pipeline"]: layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
    }
    return values | _stage_values(plan, stock)


def _stage_values(plan: Plan, stock: dict[str, Any]) -> dict[str, Any]:
    """Stages with another number of layers, which megatron-core 0.15.3 wants spelled out where a stage has several chunks.

    What the recipe has of its own goes where the plan has another: megatron-core takes one of the three ways alone.
    """
    layout, ends = plan.layout, ends_of(stock, plan.layout)
    values: dict[str, Any] = {}
    if any(ends):
        values = {LAYOUT_FIELDS[name]: False for name in ("embedding_counts", "loss_counts") if stock[name]}
        if layout.virtual_pipeline > 1:
            stages = layers_a_stage(plan.sizes, stock, layout)
            values[PIECES] = pieces(stages, layout.virtual_pipeline, plan.sizes.get("mtp_num_layers") or 0)
            ends = (None, None)
    for name, layers in zip(("first_stage_layers", "last_stage_layers"), ends, strict=True):
        if layers != stock[name]:
            values[LAYOUT_FIELDS[name]] = layers
    return values


def _schedule_values(plan: Plan) -> dict[str, Any]:
    schedule, recipe = plan.schedule, catalog.find(plan.model_name)
    values: dict[str, Any] = {
        "data.seq_length": plan.seq_length,
        f"{MODEL}.seq_length": _positions(plan),
        "trainer.max_steps": schedule.max_steps,
        "trainer.val_check_interval": schedule.val_check_interval,
        "trainer.limit_val_batches": schedule.limit_val_batches,
        "optim.config.lr": schedule.lr,
        "optim.lr_scheduler.max_steps": schedule.max_steps,
        "optim.lr_scheduler.warmup_steps": schedule.warmup_steps,
        "optim.lr_scheduler.constant_steps": schedule.constant_steps,
        "optim.lr_scheduler.min_lr": schedule.min_lr,
        "log.ckpt.every_n_train_steps": schedule.save_every,
    }
    if recipe.fields.get("optim.lr_scheduler.warmup_ratio") is not None:
        values["optim.lr_scheduler.warmup_ratio"] = None  # NeMo takes either steps or a ratio
    return {path: value for path, value in values.items() if path not in recipe.lacks}


def _positions(plan: Plan) -> int:
    """The model's own number of positions: a table of them, in a checkpoint, keeps its length; others have no table."""
    if plan.settings.nemo_model and plan.sizes.get("position_embedding_type") == "learned_absolute":
        return int(plan.sizes["seq_length"])
    return plan.seq_length


def _offload_values(plan: Plan) -> dict[str, Any]:
    distributed = not plan.settings.disable_dist_optim
    values: dict[str, Any] = {
        "optim.config.use_distributed_optimizer": distributed,
        f"{STRATEGY}.ddp.use_distributed_optimizer": distributed,
    }
    if not distributed:
        values[f"{STRATEGY}.ddp.overlap_param_gather"] = False  # gathers what only the distributed optimizer shards
    if plan.settings.cpu_offloading:
        # megatron-core offloads activations unless told not to
        for what in ("activations", "weights"):
            values[f"{MODEL}.cpu_offloading_{what}"] = plan.settings.of(BY_ATTRIBUTE[f"cpu_offloading_{what}"])
    if plan.settings.optimizer_precision:
        values[optimizer_states.FIELD] = plan.settings.optimizer_precision == "bf16"
    if plan.settings.optim_cpu_offloading:
        values["optim.config.optimizer_offload_fraction"] = plan.settings.optim_cpu_offloading_frac
        # without it megatron-core 0.15.3 saves an optimizer that it can't load
        values[optimizer_states.FIELD] = True
    return values
