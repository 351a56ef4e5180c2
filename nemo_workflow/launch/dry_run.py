"""The plan of a run, for people and for programs: what `--dry-run` prints. Light, as the plan is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from nemo_workflow.backends import registry
from nemo_workflow.config import containers, memory, optimizer_states, run_time
from nemo_workflow.config.memory import GIB, Usage
from nemo_workflow.config.parallelism import layers_a_stage
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.recipe_fields import field_values
from nemo_workflow.config.schedule import rate_at, rate_words
from nemo_workflow.data.dataset_stats import figures
from nemo_workflow.data.splits import parse_split, parts_of
from nemo_workflow.models import catalog
from nemo_workflow.models.catalog import LAYOUT_FIELDS, Recipe
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.training import resume
from nemo_workflow.utils.console import counted, every, human_bytes, human_count, human_step, human_time

SOURCES = 10  # lines of data sources in the text
BAR = 30  # characters of a full bar
SHOWN = 0.03  # of a step: a smaller part is not named
BLOCKS = "▁▂▃▄▅▆▇█"


def render(plan: Plan, form: str) -> str:
    """The plan as text, or as JSON with `form` "json"; with --executor slurm also the script that would be submitted."""
    return "\n".join(parts(plan, form))


def parts(plan: Plan, form: str) -> Iterator[str]:
    """What `render` joins: the job script comes last, for nemo_run needs a second or two to write it."""
    described = describe(plan)
    slurm = plan.settings.executor == "slurm"
    if form != "json":
        yield text(described)
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
        "patches": [registry.described(patch) for patch in registry.that_apply(plan.settings, plan.accelerator)],
        "run_dir": plan.run_dir,
        "notes": list(plan.notes),
    }


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
        "padded_vocabulary": job.vocabulary,
    }


def _start(plan: Plan) -> str:
    """Where the run's weights come from; raises Refusal where its newest checkpoint is of another run."""
    newest, _ = newest_whole(plan.folder / "checkpoints")
    if newest is None and plan.branch:
        resume.check_changes(plan)
        return f"{plan.settings.decay_from}, with its optimizer and its place in the data"
    if newest is None:
        return plan.settings.nemo_model or "random weights"
    if resume.finished_already(plan):
        return f"{newest.path.name}, which has all steps: nothing is left to train"
    resume.check_changes(plan)
    return f"{newest.path.name} of this run"


def _layout(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    layout, settings = plan.layout, plan.settings
    batches = settings.global_batch_size, settings.micro_batch_size
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
    """What the plan holds of time, and the flag that would help most; None for a GPU that is not in the table."""
    return plan.time and {**plan.time, "help": run_time.helpful(plan, recipe)}


def differences(plan: Plan, recipe: Recipe) -> list[dict[str, Any]]:
    """Recipe fields that the plan sets to something else than the stock recipe does: field, stock, ours."""
    ours = field_values(plan)
    stock = recipe.fields | {field: recipe.layout[name] for name, field in LAYOUT_FIELDS.items()}
    ours[LAYOUT_FIELDS["virtual_pipeline"]] = plan.layout.virtual_pipeline
    return [
        {"field": field, "stock": stock[field], "ours": ours[field]}
        for field in sorted(ours)
        if field in stock and stock[field] != ours[field]
    ]


def text(plan: dict[str, Any]) -> str:
    """What `describe` returns, for people."""
    lines: list[str] = []
    sections = (
        _model_text,
        _layout_text,
        _data_text,
        _training_text,
        _schedule_text,
        _checkpoint_text,
        _memory_text,
        _time_text,
    )
    for section in sections:
        lines += section(plan)
    if plan["differences"]:
        lines += ["", "Differs from the stock recipe:"]
        width = max(len(entry["field"]) for entry in plan["differences"])
        lines += [f"  {entry['field']:{width}}  {entry['stock']} -> {entry['ours']}" for entry in plan["differences"]]
    lines += ["", f"Run folder: {plan['run_dir']}"]
    lines += [f"Note: {note}" for note in plan["notes"]]
    return "\n".join(lines)


def _model_text(plan: dict[str, Any]) -> list[str]:
    model = plan["model"]
    active = model["active_parameters"]
    partly = f", {human_count(active)} of them used for a token" if active != model["parameters"] else ""
    return [
        f"Model: {model['name']} ({model['class']} of NeMo {model['nemo']}), {model['parameters']:,} parameters{partly}",
        f"  {model['layers']} layers, hidden size {model['hidden_size']}, vocabulary {model['vocabulary']:,}"
        f" (padded to {model['padded_vocabulary']:,}); starts from {model['start']}",
    ]


def _layout_text(plan: dict[str, Any]) -> list[str]:
    layout = plan["layout"]
    ranks = counted(layout["ranks"], f"{layout['accelerator'].upper()} rank")
    if layout["nodes"] > 1:
        ranks += f" on {layout['nodes']} nodes"
    sizes = f"TP {layout['tensor']} x PP {layout['pipeline']} x CP {layout['context']} x DP {layout['data']}"
    more = [f"VPP {layout['virtual_pipeline']}"] if layout["virtual_pipeline"] > 1 else []
    more += [f"EP {layout['expert']}"] if layout["expert"] > 1 else []
    more += ["sequence parallel"] if layout["sequence_parallel"] else []
    lines = ["", f"Layout: {ranks} = {sizes}" + "".join(f", {word}" for word in more)]
    work = f"  {counted(layout['micro_batches'], 'micro batch')} per step"
    if layout["pipeline"] > 1:
        stages = ", ".join(str(number) for number in layout["layers_a_stage"])
        work += f"; layers per stage: {stages}; pipeline bubble {layout['bubble']:.1%}"
    return [*lines, work, *([f"  in {layout['container']}"] if layout["container"] else [])]


def _data_text(plan: dict[str, Any]) -> list[str]:
    sources = plan["data"]["sources"]
    tokens = sum(source["tokens"] for source in sources)
    documents = sum(source["documents"] for source in sources)
    counts = counted(len(sources), "file"), counted(documents, "document"), counted(tokens, "token")
    lines = ["", f"Data: {', '.join(counts)}"]
    shown = sorted(sources, key=lambda source: -source["weight"])[:SOURCES] if len(sources) > SOURCES else sources
    for source in shown:
        text = source["bytes_per_token"]
        lines.append(
            f"  {source['weight']:6.1%}  {source['prefix']}: {human_count(source['tokens'])} tokens, {source['dtype']}"
            + (f", {text:.2f} bytes of text per token" if text else "")
            + f", {human_count(source['drawn_tokens'])} drawn: {source['epochs']:.2f} epochs"
        )
    if len(sources) > SOURCES:
        weight = 1 - sum(source["weight"] for source in shown)
        lines.append(f"  {weight:6.1%}  {len(sources) - SOURCES:,} more (all of them: --dry-run=json)")
    parts = " / ".join(f"{share:.1%}" for share in plan["data"]["split"])
    training = sum(source["training_samples"] for source in sources)
    validation = sum(source["validation_samples"] for source in sources)
    return [
        *lines,
        f"  training / validation / test: {parts}; {training:,} training and {counted(validation, 'validation sample')}",
        *(
            f"  validation set {one['name']}: {counted(one['batches'], 'batch')} of its"
            f" {counted(one['samples'], 'sample')}, also before the first step"
            for one in plan["data"]["validation_sets"]
        ),
    ]


def _training_text(plan: dict[str, Any]) -> list[str]:
    run = plan["training"]
    seen = "every sample once"
    if run["samples_never_seen"]:
        seen = f"{run['samples_never_seen'] / run['samples_an_epoch']:.1%} of the samples never seen"
    elif run["samples_seen_more_than_once"]:
        seen = f"{run['samples_seen_more_than_once'] / run['samples_an_epoch']:.1%} of the samples more than once"
    return [
        "",
        f"Training: {counted(run['steps'], 'step')} of {run['global_batch_size']:,} x {run['seq_length']:,} ="
        f" {human_count(run['tokens_a_step'])} tokens; {human_count(run['tokens'])} tokens in all,"
        f" {run['epochs']:.2f} epochs ({seen})",
        *(
            [
                f"  of these the first {run['first_step']:,} steps are made: {run['steps'] - run['first_step']:,} are left"
            ]
            if run["first_step"]
            else []
        ),
    ]


def _schedule_text(plan: dict[str, Any]) -> list[str]:
    schedule = plan["schedule"]
    top = schedule["lr"] or 1
    curve = "".join(BLOCKS[min(7, int(8 * rate / top))] for _, rate in schedule["curve"])
    validation = f"{every(schedule['val_check_interval'])}, {counted(schedule['limit_val_batches'], 'batch')}"
    if not schedule["limit_val_batches"]:
        validation = "none"
    return [
        f"  learning rate {rate_words(schedule)}  {curve}",
        f"  validation {validation}",
        *(
            [f"  torch's profiler: {schedule['profiled']} of rank 0's steps, to profile/"]
            if schedule["profiled"]
            else []
        ),
    ]


def _checkpoint_text(plan: dict[str, Any]) -> list[str]:
    saved = plan["checkpoints"]
    return [
        "",
        f"Checkpoints: {every(saved['every'])}, {saved['written']} in all, {saved['kept']} kept;"
        f" {human_bytes(saved['bytes_each'])} each, at most {human_bytes(saved['bytes_at_most'])} on disk",
        *([f"  {_export_words(saved)}"] if saved["exported"] else []),
    ]


def _export_words(saved: dict[str, Any]) -> str:
    """What --export-hf and --push-to-hub will do."""
    when = "each, beside the training, and the last" if saved["exported"] == "save" else "the last"
    hub = f", which is uploaded to the Hub as {saved['hub']}" if saved["hub"] else ""
    return f"exported to hf_model/ as a Hugging Face model, verified: {when}{hub}"


def _memory_text(plan: dict[str, Any]) -> list[str]:
    usage = plan["memory"]
    if usage is None:
        return []
    limit, total = usage["gpu_memory"], usage["total"]
    stage = f" (stage {usage['stage']})" if plan["layout"]["pipeline"] > 1 else ""
    lines = ["", f"Memory of the fullest GPU{stage}, {human_count(usage['parameters_on_gpu'])} parameters on it:"]
    for part in ("weights", "gradients", "optimizer", "activations", "logits", "libraries", "setup", "update", "total"):
        if part in ("setup", "update") and usage[part] + usage["libraries"] < total:
            continue  # a step takes more
        bar = "█" * min(BAR, round(BAR * usage[part] / limit))
        lines.append(f"  {part:11} {usage[part] / GIB:8.1f} GiB  {bar}")
    share = total / limit
    verdict = "fits" if usage["fits"] else "DOES NOT FIT"
    return [
        *lines,
        f"  {verdict}: {share:.0%} of the {limit / GIB:.0f} GiB of {usage['gpu']} ({usage['gpu_memory_source']})",
    ]


def _time_text(plan: dict[str, Any]) -> list[str]:
    time = plan["time"]
    if time is None:
        return [
            "",
            f"Time: not planned, {plan['memory']['gpu']} is not in the table of GPUs; --gpu names one that is like it",
        ]
    gpu = plan["layout"]["accelerator"] == "gpu"
    rate = f"{human_count(time['tokens_per_second'])} tokens/s"
    if gpu:
        rate += f" ({time['tokens_per_second_per_gpu']:,.0f} per GPU"
        rate += f", MFU {time['mfu']:.0%})" if time["mfu"] else ")"
    whole = f"{human_time(time['run_seconds'])} for the run"
    if gpu:
        whole += f", {time['gpu_hours']:,.1f} GPU hours"
    lines = ["", f"Time: {human_step(time['step_seconds'])} per step, {rate}; {whole}"]
    shares = sorted(time["parts"].items(), key=lambda part: -part[1])
    shown = [
        f"{name} {part / time['step_seconds']:.0%}" for name, part in shares if part >= SHOWN * time["step_seconds"]
    ]
    lines += [f"  a step goes to: {', '.join(shown)}"] if shown else []
    if help_ := time.get("help"):
        what = "changes numbers" if help_["words"] == "--fp8" else "fits too"
        lines.append(f"  {help_['words']} would save most: {help_['saves']:.0%} of a step ({what})")
    return [*lines, f"  {_basis(time, gpu)}"]


def _basis(time: dict[str, Any], gpu: bool) -> str:
    """On what the plan of time rests."""
    if time.get("calibration"):
        return f"scaled by {time['scale']:.2f}, as {time['calibration']} says"
    if not gpu:
        return "a guess by the cores: a CPU's speed differs widely"
    name = f"NVIDIA {time['gpu'].upper()}"
    if time["measured"]:
        return f"by rates that this project measured on {name} cards (docs/performance.md)"
    return f"by the data sheet of {name}: not measured"
