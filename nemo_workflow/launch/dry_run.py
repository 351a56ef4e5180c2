"""The plan of a run, for people and for programs: what `--dry-run` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nemo_workflow.backends import registry
from nemo_workflow.backends.patching import Patch
from nemo_workflow.config import containers, memory, optimizer_states, run_time
from nemo_workflow.config.memory import Usage
from nemo_workflow.config.parallelism import layers_a_stage
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.recipe_fields import PIECES, field_values
from nemo_workflow.config.schedule import rate_at
from nemo_workflow.data.dataset_stats import figures
from nemo_workflow.data.splits import parse_split, parts_of
from nemo_workflow.launch import plan_text
from nemo_workflow.models import catalog
from nemo_workflow.models.catalog import LAYOUT_FIELDS, Recipe
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.training import resume


def render(plan: Plan, form: str) -> str:
    """The plan as text, or as JSON with `form` "json"; with --executor slurm also the script that would be submitted."""
    return "\n".join(parts(plan, form))


def parts(plan: Plan, form: str) -> Iterator[str]:
    """What `render` joins: the job script comes last, for nemo_run needs a second or two to write it."""
    described = describe(plan)
    slurm = plan.settings.executor == "slurm"
    if form != "json":
        yield plan_text.text(described)
        if slurm:
            yield f"\nJob script:\n{_job_script(plan).rstrip()}"
        return
    if slurm:
        described["job_script"] = _job_script(plan)
    yield json.dumps(described, indent=2, ensure_ascii=False)


def _job_script(plan: Plan) -> str:
    from nemo_workflow.launch.slurm.script import job_script

    return job_script(plan)


def describe(plan: Plan) -> dict[str, Any]:
    """Everything that the plan shows, in plain values. Bytes, tokens, samples and steps are whole numbers."""
    recipe = catalog.find(plan.model_name)
    return {
        "model": _model(plan, recipe),
        "layout": _layout(plan, recipe),
        "data": _data(plan),
        "training": _training(plan),
        "schedule": _schedule(plan),
        "checkpoints": _checkpoints(plan, recipe),
        "memory": _memory(plan, recipe),
        "time": _time(plan, recipe),
        "differences": differences(plan, recipe),
        "patches": [registry.described(patch) for patch in _patches(plan, recipe)],
        "run_dir": plan.run_dir,
        "notes": list(plan.notes),
    }


def _patches(plan: Plan, recipe: Recipe) -> list[Patch]:
    """The patches that the run takes: those for moments in bf16 also where it is the recipe that has them so."""
    bf16 = optimizer_states.bf16_moments(plan.settings, recipe)
    settings = replace(plan.settings, optimizer_precision="bf16") if bf16 else plan.settings
    return registry.that_apply(settings, plan.accelerator)


def _model(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    job = memory.job_of(plan, recipe)
    count = memory.model_of(job)
    experts, used = plan.sizes.get("num_moe_experts"), plan.sizes.get("moe_router_topk")
    idle = sum(layer.expert for layer in count.layers) * (1 - used / experts) if experts else 0
    return {
        "name": plan.model_name,
        "class": recipe.model_class,
        "nemo": plan.nemo,
        "start": _start(plan),
        "parameters": count.total,
        "active_parameters": round(count.total - idle),
        "layers": len(count.layers),
        "hidden_size": plan.sizes["hidden_size"],
        "vocabulary": plan.vocab_size,
        "vocabulary_from": plan.vocab_from,
        "padded_vocabulary": job.vocabulary,
    }


def _start(plan: Plan) -> str:
    """Where the run's weights come from; raises Refusal where its newest checkpoint is of another run."""
    newest, _ = newest_whole(plan.folder / "checkpoints")
    if newest is None and plan.branch:
        resume.check_changes(plan)
        return f"{plan.settings.decay_from}, with its optimizer and its place in the data"
    if newest is None:
        return "; ".join(filter(None, [plan.settings.nemo_model or "random weights", resume.none_left(plan.folder)]))
    if resume.finished_already(plan):
        return f"{newest.path.name}, which has all steps: nothing is left to train"
    resume.check_changes(plan)
    return f"{newest.path.name} of this run"


def _done(plan: Plan) -> int:
    """Steps that are made already: by this run's earlier starts, or by the run that it branches off."""
    newest, _ = newest_whole(plan.folder / "checkpoints")
    return newest.step if newest else plan.schedule.first_step


def _layout(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    layout, settings = plan.layout, plan.settings
    batches, job = (settings.global_batch_size, settings.micro_batch_size), memory.job_of(plan, recipe)
    return {
        "accelerator": plan.accelerator,
        "nodes": layout.nodes,
        "ranks": layout.ranks,
        "tensor": layout.tensor,
        "pipeline": layout.pipeline,
        "virtual_pipeline": layout.virtual_pipeline,
        "context": layout.context,
        "expert": layout.expert,
        "data": layout.data,
        "sequence_parallel": layout.sequence_parallel,
        "layers_a_stage": layers_a_stage(plan.sizes, recipe.layout, layout),
        "micro_batches": layout.micro_batches(*batches),
        "precision": job.precision,
        "fp8": job.fp8,
        "container": containers.described(settings),
        "bubble": round(layout.bubble(*batches), 4),
    }


def _data(plan: Plan) -> dict[str, Any]:
    shares = parse_split(plan.settings.split)
    drawn = plan.schedule.max_steps * plan.settings.global_batch_size
    sources = []
    for source in plan.sources:
        parts = parts_of(source.pair, shares)
        samples = parts[0].samples(plan.seq_length)
        sources.append(
            {
                "prefix": source.pair.prefix,
                "weight": source.weight,
                "documents": source.pair.documents,
                "tokens": source.pair.tokens,
                "dtype": source.pair.dtype,
                "bytes_per_token": figures(source.pair).get("bytes_per_token"),
                "training_tokens": parts[0].tokens,
                "training_samples": samples,
                "validation_samples": parts[1].samples(plan.seq_length),
                "drawn_tokens": round(drawn * source.weight * plan.seq_length),
                "epochs": drawn * source.weight / samples if samples else math.inf,
            }
        )
    sets = [
        {"name": one.name, "batches": plan.batches_of(one), "samples": one.samples(plan.seq_length)}
        for one in plan.validation_sets
    ]
    return {"split": list(shares), "sources": sources, "validation_sets": sets}


def _training(plan: Plan) -> dict[str, Any]:
    shares = parse_split(plan.settings.split)
    samples = sum(parts_of(source.pair, shares)[0].samples(plan.seq_length) for source in plan.sources)
    batch = plan.settings.global_batch_size
    drawn = plan.schedule.max_steps * batch
    passes, rest = divmod(drawn, samples)
    return {
        "seq_length": plan.seq_length,
        "global_batch_size": batch,
        "micro_batch_size": plan.settings.micro_batch_size,
        "tokens_a_step": batch * plan.seq_length,
        "steps": plan.schedule.max_steps,
        "first_step": plan.schedule.first_step,
        "done": _done(plan),
        "tokens": drawn * plan.seq_length,
        "samples_an_epoch": samples,
        "epochs": round(drawn / samples, 4),
        "samples_never_seen": samples - rest if not passes else 0,
        "samples_seen_more_than_once": samples if passes > 1 else rest if passes else 0,
    }


def _schedule(plan: Plan) -> dict[str, Any]:
    schedule = plan.schedule
    marks = sorted({schedule.first_step + round(i * (schedule.steps - 1) / 39) for i in range(40)})
    return {
        "lr": schedule.lr,
        "min_lr": schedule.min_lr,
        "warmup_steps": schedule.warmup_steps,
        "constant_steps": schedule.constant_steps,
        **{name: getattr(schedule, name) for name in ("kind", "decay_steps", "decay_style", "first_step")},
        "curve": [[step, rate_at(schedule, step)] for step in marks],
        "val_check_interval": schedule.val_check_interval,
        "limit_val_batches": schedule.limit_val_batches,
        "profiled": plan.settings.profile,
    }


def _checkpoints(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    job = memory.job_of(plan, recipe)
    size = optimizer_states.checkpoint_bytes(memory.model_of(job), job.precision, job.sgd)
    written = math.ceil(plan.schedule.steps / plan.schedule.save_every)
    keep = plan.settings.keep_checkpoints
    # the newest is whole before the oldest goes
    at_once = written if keep < 0 else min(written, keep + 1)
    return {
        "every": plan.schedule.save_every,
        "written": written,
        "kept": written if keep < 0 else min(written, keep),
        "bytes_each": size,
        "bytes_at_most": size * at_once,
        "exported": plan.settings.export_hf,
        "hub": plan.settings.push_to_hub,
    }


def _memory(plan: Plan, recipe: Recipe) -> dict[str, Any] | None:
    """Bytes on the fullest GPU; None on a CPU."""
    if plan.accelerator == "cpu":
        return None
    usage: Usage = memory.fullest(memory.job_of(plan, recipe))
    assert plan.card is not None
    limit = plan.card.memory
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "libraries", "setup", "update")
    return {
        "stage": usage.stage,
        "parameters_on_gpu": usage.parameters,
        **{part: getattr(usage, part) for part in parts},
        "total": usage.total,
        "gpu": plan.card.name,
        "gpu_memory": limit,
        "gpu_memory_source": plan.card.source,
        "fits": usage.total <= limit,
    }


def _time(plan: Plan, recipe: Recipe) -> dict[str, Any] | None:
    """What the plan holds of time, of the steps left too, and the flag that would help most; None for a GPU that is not in the table."""
    if not plan.time:
        return None
    schedule = plan.schedule
    share = max(0, schedule.max_steps - _done(plan)) / schedule.steps
    left = run_time.left_seconds(plan.time["run_seconds"], plan.accelerator, share)
    return {**plan.time, "left_seconds": left, "help": run_time.helpful(plan, recipe)}


def differences(plan: Plan, recipe: Recipe) -> list[dict[str, Any]]:
    """Recipe fields that the plan sets to something else than the stock recipe does: field, stock, ours."""
    ours = field_values(plan)
    stock = recipe.fields | {field: recipe.layout[name] for name, field in LAYOUT_FIELDS.items()} | {PIECES: None}
    ours[LAYOUT_FIELDS["virtual_pipeline"]] = plan.layout.virtual_pipeline
    return [
        {"field": field, "stock": stock[field], "ours": ours[field]}
        for field in sorted(ours)
        if field in stock and stock[field] != ours[field]
    ]
