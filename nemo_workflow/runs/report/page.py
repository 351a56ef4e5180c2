"""report.html of a run, and the page that lays several runs over each other."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import statistics
import time
from pathlib import Path
from typing import Any

from nemo_workflow.config import containers
from nemo_workflow.config.schedule import rate_words
from nemo_workflow.config.settings import Settings
from nemo_workflow.launch.slurm.cluster import state_of
from nemo_workflow.launch.slurm.ending import why_ended
from nemo_workflow.run_dir.metric_table import SET_LOSSES
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.run_dir.slurm_jobs import Job, jobs_of
from nemo_workflow.utils.console import counted, every, human_bytes, human_count, human_time
from nemo_workflow.utils.files import written_aside

FILE = "report.html"
SHOWN = re.compile(r'class="state (\w+)"')
RELOAD_SECONDS = 60  # a page of a running run reloads itself
SIZES = {
    "num_layers": "layers",
    "hidden_size": "hidden size",
    "num_attention_heads": "heads",
    "num_moe_experts": "experts",
}


def write_report(run: RunFolder, path: Path | None = None) -> Path:
    """Write the report of a run, by default into its folder; returns where."""
    path = path or run.path / FILE
    _write(path, _content(run), [run])
    return path


def state_shown(path: Path) -> str:
    """The state that a report says its run has; empty where there is no report."""
    try:
        found = SHOWN.search(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def write_again_if_stale(run: RunFolder) -> None:
    """Write the report again where it shows another state than the run has: whoever would have written it was killed."""
    path = run.path / FILE
    if run.state.name == "running" or state_shown(path) in ("", run.state.name):
        return
    with contextlib.suppress(OSError, ModuleNotFoundError):  # another's folder; no Bokeh here
        write_report(run)


def write_comparison(runs: list[RunFolder], differences: list[tuple[str, ...]], path: Path) -> Path:
    """Write a page with the curves of all runs over each other and the flags in which they differ."""
    from nemo_workflow.runs.report import charts

    names = [run.name for run in runs]
    lead = [{"state": run.state.name, "text": f"{run.name}: {run.state.why}".removesuffix(": ")} for run in runs]
    table = {"title": "Flags that differ", "head": ["flag", *names], "rows": differences}
    note = "Strong lines are running means over a fiftieth of a run, faint ones the single steps."
    if not any(charts.means_drawn(run) for run in runs):
        note = ""
    if any(run.of_kind("validation") for run in runs):
        note = f"{note} Validation losses are dashed; their labels end in {charts.DASHED}.".strip()
    tables = [table] if differences else []
    _write(path, {"title": " / ".join(names), "lead": lead, "chart_note": note, "tables": tables}, runs)
    return path


def _write(path: Path, content: dict[str, Any], runs: list[RunFolder]) -> None:
    from jinja2 import Environment

    from nemo_workflow.runs.report import charts

    script, divisions = charts.draw(runs)
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    )
    text = template.render(
        content, charts=divisions, script=script, plotting_script=charts.plotting_script() if script else "",
        written=_when(time.time()),
    )  # fmt: skip
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a writer that was killed
        left.unlink(missing_ok=True)
    with written_aside(path) as stream:
        stream.write(text)


def _content(run: RunFolder) -> dict[str, Any]:
    resumed = any(start["step"] for start in run.of_kind("start"))
    command = run.plan.get("command") or run.summary.get("command") or []
    config = run.path / "config.yaml"
    blocks = [{"title": "Command", "text": shlex.join(as_typed(command))}] if command else []
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        blocks.append({"title": "Config", "folded": "config.yaml: every flag of the run", "text": text})
    return {
        "title": run.name,
        "lead": [{"state": run.state.name, "text": run.state.why}, {"text": str(run.path)}],
        "reload_seconds": RELOAD_SECONDS if run.state.name == "running" else None,
        "tiles": _tiles(run),
        "chart_note": "A dashed line marks where a start went on from a checkpoint." if resumed else "",
        "tables": [table for table in _tables(run) if table["rows"]],
        "blocks": blocks,
    }


def _tiles(run: RunFolder) -> list[tuple[str, str]]:
    step, steps = run.last.get("step"), run.of_kind("step")
    tiles = [("step", f"{run.step} of {run.max_steps}")]
    if not step or not steps:  # those that were made don't count: a start has begun again before them
        return tiles
    if step["loss"] is not None:
        tiles.append(("loss", f"{step['loss']:.4f}"))
    validations = [event["val_loss"] for event in run.of_kind("validation") if event["val_loss"] is not None]
    if validations:
        tiles.append(("validation loss", f"{validations[-1]:.4f}"))
        tiles.append(("lowest validation loss", f"{min(validations):.4f}"))
    for name, loss in (run.last.get("validation", {}).get(SET_LOSSES) or {}).items():
        first = next((e[SET_LOSSES].get(name) for e in run.of_kind("validation") if e.get(SET_LOSSES)), None)
        if loss is not None and first is not None:
            tiles.append((f"loss on {name}", f"{loss:.4f} ({loss - first:+.4f})"))
    tiles.append(("tokens/s", human_count(statistics.median(event["tokens_per_second"] for event in steps[-100:]))))
    if step.get("mfu"):
        tiles.append(("MFU", f"{step['mfu']:.1%}"))
    tiles.append(("tokens", human_count(run.step * run.tokens_a_step)))
    tiles.append(("highest memory", human_bytes(max(event["memory_bytes"] for event in steps))))
    tiles.append(("time in steps", human_time(sum(event["seconds"] for event in steps))))
    if run.state.name == "running":
        usual = statistics.median(event["seconds"] for event in steps[-100:])
        tiles.append(("steps left take", human_time(usual * (run.max_steps - run.step))))
    return tiles


def _tables(run: RunFolder) -> list[dict[str, Any]]:
    sources = [
        (
            s["pair"]["prefix"],
            s["pair"]["tokens"],
            s["pair"]["documents"],
            s["pair"]["dtype"],
            f"{s['weight']:.1%}",
            human_count(run.max_steps * run.tokens_a_step * s["weight"]),
        )
        for s in run.plan.get("sources", [])
    ]
    checkpoints = [
        (c["step"], human_bytes(c["bytes"] or 0), "" if c["seconds"] is None else f"{c['seconds']:.1f} s",
         _when(c["time"]), c["state"])
        for c in run.checkpoints()
    ]  # fmt: skip
    starts = [
        (_when(s["time"]), s["step"], s["last_step"], f"{s['setup_seconds']:.0f} s", s["end"], _job_of(s))
        for s in run.starts()
    ]
    where = ["Slurm job"] if any(start[-1] for start in starts) else []
    return [
        {"title": "What happened", "rows": _remarks(run), "broad": True},
        {
            "title": "Starts",
            "head": ["when", "from step", "to step", "set-up", "end", *where],
            "rows": starts if where else [start[:-1] for start in starts],
            "broad": bool(where),
        },
        {
            "title": "Slurm jobs",
            "head": ["job", "link", "submitted", "restarts", "script ended with", "why"],
            "rows": [_job_row(job) for job in jobs_of(run.path)],
        },
        {"title": "Plan", "rows": plan_rows(run.plan)},
        {
            "title": "Data",
            "head": ["file", "tokens", "documents", "type", "weight", "tokens drawn by the end"],
            "rows": sources,
            "broad": True,
        },
        {"title": "Checkpoints", "head": ["step", "size", "written in", "when", "state"], "rows": checkpoints},
        {
            "title": "Costliest kernels (--profile)",
            "head": ["kernel", "calls", "seconds", "share"],
            "rows": [
                (kernel["name"], kernel["calls"], f"{kernel['seconds']:.4f}", f"{kernel['share']:.1%}")
                for kernel in run.last.get("profile", {}).get("kernels", [])
            ],
            "broad": True,
        },
        {
            "title": "Hugging Face exports",
            "head": ["step", "when", "took", "folder or problem", "uploaded to"],
            "rows": [
                (e["step"], _when(e["time"]), human_time(e["seconds"]), e["problem"] or e["path"], e["hub"] or "")
                for e in run.of_kind("export")
            ],
        },
        {"title": "Machine", "rows": _machine_rows(run.last.get("start", {}).get("machine") or {})},
        {"title": "Versions", "rows": list(run.versions().items())},
    ]


def _job_of(start: dict[str, Any]) -> str:
    """'123 on node[1-2], restart 1' of a start that a Slurm job made, else ''."""
    job = start.get("slurm")
    if not job:
        return ""
    return f"{job['job']} on {job['nodes']}" + (f", restart {job['restart']}" if job["restart"] else "")


def _job_row(job: Job) -> tuple[Any, ...]:
    code = job.exit_code(job.restarts)
    own = os.environ.get("SLURM_JOB_ID") == job.job_id  # it writes the report itself
    why = "" if own or code == 0 else why_ended(job, state_of(job))
    row = (job.job_id, f"{job.link} of {job.chain}", _when(job.submitted), job.restarts)
    return (*row, "" if code is None else code, why)


def _remarks(run: RunFolder) -> list[tuple[str, str]]:
    from nemo_workflow.run_dir.metrics import plain

    remarks = [(_when(e["time"]), plain(e, 0, 1) or "") for e in run.every_event if e["event"] in ("note", "spike")]
    return remarks[-100:]


def plan_rows(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """The plan in words: what, and its value."""
    if not plan:
        return []
    layout, schedule, settings = plan["layout"], plan["schedule"], Settings.from_public(plan["settings"])
    ranks = layout["nodes"] * layout["ranks_per_node"]
    data_parallel = ranks // (layout["tensor"] * layout["pipeline"] * layout["context"])
    sizes = [f"{plan['sizes'][key]} {word}" for key, word in SIZES.items() if plan.get("sizes", {}).get(key)]
    ends = "".join(
        f", {layout[key]} layers in the {key.partition('_')[0]} stage"
        for key in ("first_stage_layers", "last_stage_layers")
        if layout.get(key)
    )
    device = "GPU" if plan["accelerator"] == "gpu" else "CPU process"
    rows = [
        ("model", ", ".join([plan["model_name"], *sizes])),
        ("vocabulary", f"{plan.get('vocab_size', 0):,}"),
        ("ranks", f"{counted(ranks, device)} on {counted(layout['nodes'], 'node')}"),
        ("layout", f"TP {layout['tensor']}, PP {layout['pipeline']}, VPP {layout['virtual_pipeline']}, "
                   f"CP {layout['context']}, EP {layout['expert']}, DP {data_parallel}{ends}"),
        ("batch", f"{counted(settings.global_batch_size, 'sequence')} of {plan['seq_length']} tokens per step, "
                  f"{settings.micro_batch_size} at once"),
        ("learning rate", rate_words(schedule)),
        ("validation", every(schedule["val_check_interval"]) if schedule["limit_val_batches"] else "none"),
        ("checkpoints", f"{every(schedule['save_every'])}, {kept_words(settings.keep_checkpoints)}"),
    ]  # fmt: skip
    if settings.optimizer_precision == "bf16":
        rows.append(("optimizer", "Adam's moments in bf16"))
    if settings.grad_reduce_in_bf16:
        rows.append(("gradients", "summed in bf16"))
    if container := containers.described(settings):
        rows.append(("container", container))
    return rows + [("note", note) for note in plan.get("notes", [])]


def kept_words(keep: int) -> str:
    """What --keep-checkpoints leaves: a start keeps the one that it resumed from too."""
    if keep < 0:
        return "all kept"
    return f"the newest {keep} kept, and the one resumed from"


def _machine_rows(machine: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), human_bytes(v) if key == "memory" else str(v)) for key, v in machine.items() if v]


def _when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def as_typed(command: list[str]) -> list[str]:
    """A command by its words, as a shell takes it: a script of ours is called by python."""
    return ["python", *command] if command[0].endswith(".py") else command
