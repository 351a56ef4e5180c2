"""The plan of a run in words: what `dry_run.describe` gives, for people."""

from __future__ import annotations

from typing import Any

from nemo_workflow.config.memory import GIB
from nemo_workflow.config.schedule import rate_words
from nemo_workflow.utils.console import counted, every, human_bytes, human_count, human_epochs, human_step, human_time

SOURCES = 10  # lines of data sources in the text
BAR = 30  # characters of a full bar
SHOWN = 0.03  # of a step: a smaller part is not named
BLOCKS = "▁▂▃▄▅▆▇█"


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
        lines += [
            f"  {entry['field']:{width}}  {_shown(entry['stock'])} -> {_shown(entry['ours'])}"
            for entry in plan["differences"]
        ]
    lines += ["", f"Run folder: {plan['run_dir']}"]
    lines += [f"Note: {note}" for note in plan["notes"]]
    return "\n".join(lines)


def _shown(value: Any) -> Any:
    """A tenth of 3e-4 is 2.9999999999999997e-05."""
    return f"{value:.10g}" if isinstance(value, float) else value


def _model_text(plan: dict[str, Any]) -> list[str]:
    model = plan["model"]
    active = model["active_parameters"]
    partly = f", {human_count(active)} of them used for a token" if active != model["parameters"] else ""
    # nothing is known yet of the tokenizer that the run will have
    assumed = " of the recipe's usual tokenizer" if model["vocabulary_from"] == "recipe" else ""
    about = "about " if assumed else ""
    return [
        f"Model: {model['name']} ({model['class']} of NeMo {model['nemo']}), {about}{model['parameters']:,} parameters{partly}",
        f"  {counted(model['layers'], 'layer')}, hidden size {model['hidden_size']}, vocabulary {model['vocabulary']:,}{assumed}"
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
    work = f"  {counted(layout['micro_batches'], 'micro batch')} per step, in {layout['precision']}"
    work += " with fp8 products" if layout["fp8"] else ""
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
            + f", {human_count(source['drawn_tokens'])} drawn: {human_epochs(source['epochs'])}"
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
        f" {human_epochs(run['epochs'])} ({seen})",
        *([f"  {_rest_words(run)}"] if run["done"] else []),
    ]


def _rest_words(run: dict[str, Any]) -> str:
    done, steps = run["done"], run["steps"]
    if done >= steps:
        return f"trained to step {done:,} already: nothing is left; a larger --max-steps than {done:,} continues it"
    return f"continues after step {done:,} of {steps:,}: {counted(steps - done, 'step')} left"


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
        f"Checkpoints: {every(saved['every'])}, {saved['written']:,} in all, {saved['kept']:,} kept;"
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
            f"Time: not planned, {plan['memory']['gpu']} is not in the table of GPUs; --gpu names a similar one",
        ]
    gpu = plan["layout"]["accelerator"] == "gpu"
    rate = f"{human_count(time['tokens_per_second'])} tokens/s"
    if gpu:
        rate += f" ({time['tokens_per_second_per_gpu']:,.0f} per GPU"
        rate += f", MFU {time['mfu']:.0%})" if time["mfu"] else ")"
    whole = f"{human_time(time['run_seconds'])} for the run"
    if gpu:
        whole += f", {time['gpu_hours']:,.1f} GPU hours"
    run = plan["training"]
    left = run["steps"] - run["done"]
    if run["done"] > run["first_step"] and left > 0:
        whole += f", {human_time(time['left_seconds'])} for the {counted(left, 'step')} left"
    lines = ["", f"Time: {human_step(time['step_seconds'])} per step, {rate}; {whole}"]
    shares = sorted(time["parts"].items(), key=lambda part: -part[1])
    shown = [
        f"{name} {part / time['step_seconds']:.0%}" for name, part in shares if part >= SHOWN * time["step_seconds"]
    ]
    lines += [f"  time of a step:  {', '.join(shown)}"] if shown else []
    if help_ := time.get("help"):
        what = "changes numbers" if help_["words"] == "--fp8" else "fits too"
        lines.append(f"  {help_['words']} would save most: {help_['saves']:.0%} of a step ({what})")
    return [*lines, f"  {_basis(time, gpu)}"]


def _basis(time: dict[str, Any], gpu: bool) -> str:
    """On what the plan of time rests."""
    if time.get("calibration"):
        return f"scaled by {time['scale']:.2f}, as {time['calibration']} says"
    if not gpu:
        return "estimated from the number of cores; CPU speeds vary widely"
    name = f"NVIDIA {time['gpu'].upper()}"
    if time["measured"]:
        return f"from rates that this project measured on {name} cards (docs/performance.md)"
    return f"from the data sheet of {name}, not measured"
