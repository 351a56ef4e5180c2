"""Run folders in the format that a training leaves, without a training: thousands of steps in milliseconds."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

from nemo_workflow.config.parallelism import Layout
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.config.settings import Settings
from nemo_workflow.conversion.report import NAME as REPORT
from nemo_workflow.data.blend import Source
from nemo_workflow.data.indexed_dataset import Pair
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.config_yaml import config_text
from nemo_workflow.run_dir.export_process import EXPORTED
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs.report.page import write_report

BEGAN = 1_780_000_000.0
VERSIONS = {"python": "3.11.7", "torch": "2.13.0+cpu", "nemo_toolkit": "2.7.3", "megatron-core": "0.15.3"}


def make_plan(folder: Path, steps: int = 100, every: int = 25, **settings: Any) -> Plan:
    """The plan of a small run on a CPU; `settings` replace flags."""
    values = {
        "experiment": folder.name, "output_dir": str(folder.parent), "num_gpus": 2, "accelerator": "cpu",
        "model_name": "llama_tiny", "hf_model_id": "/models/tiny", "global_batch_size": 16, "micro_batch_size": 8,
        "max_steps": steps, "dataset_dir": ("/data/wiki",), **settings,
    }  # fmt: skip
    pair = Pair("/data/wiki/preprocessed/wiki_text_document", "uint16", 4350, 4370, 21_129_890)
    return Plan(
        settings=Settings(**values),
        given=("accelerator", "dataset_dir", "experiment", "max_steps", *settings),
        accelerator="cpu",
        model_name=values["model_name"],
        layout=Layout(1, 2, 1, 1, 1, 1, 1, False, None),
        sources=(Source(pair, 1.0),),
        seq_length=256,
        schedule=Schedule(steps, steps // 10, 0, values.get("lr") or 1e-3, 1e-4, every, every, 8),
        run_dir=str(folder),
        command=("pretrain_llm.py", "--experiment", folder.name, "--max-steps", str(steps)),
        sizes={"num_layers": 4, "hidden_size": 256, "num_attention_heads": 8},
        vocab_size=4096,
        time={"gpu": None, "scale": 1.0, "step_seconds": 0.5, "tokens_per_second": 8192.0},
        notes=("the epoch ends after step 5000",),
    )


def step_event(plan: Plan, step: int, time: float, loss: float, seconds: float = 0.5, **more: Any) -> dict[str, Any]:
    """A step as the worker's rank 0 writes it."""
    tokens = plan.settings.global_batch_size * plan.seq_length
    return {
        "event": "step", "time": round(time, 3), "step": step, "loss": loss, "lr": 1e-3 * min(1, step / 10),
        "grad_norm": 1.25, "consumed_samples": step * plan.settings.global_batch_size, "seconds": seconds,
        "tokens_per_second": tokens / seconds, "memory_bytes": 1_250_000_000 + step, **more,
    }  # fmt: skip


def history(plan: Plan, upto: int, first: int = 1, began: float = BEGAN, seed: int = 0) -> list[dict[str, Any]]:
    """The events of one start from step `first` to `upto`, without an end."""
    time = began
    found: list[dict[str, Any]] = [
        {"event": "start", "time": time, "step": first - 1, "max_steps": plan.schedule.max_steps, "setup_seconds": 9.5}
    ]
    for step in range(first, upto + 1):
        luck = random.Random(f"{seed} {step}")  # a step that is repeated has the same numbers
        seconds = 0.5 + luck.random() / 10
        time += seconds
        loss = 3.0 + 5.4 * math.exp(-step / 40) + luck.gauss(0, 0.05)
        found.append(step_event(plan, step, time, loss, round(seconds, 4)))
        if step % plan.schedule.save_every == 0:
            path = str(plan.folder / "checkpoints" / f"step_{step:08d}")
            time += 0.4
            found.append(
                {"event": "checkpoint", "time": time, "step": step, "path": path, "bytes": 73_847_077, "seconds": 0.4}
            )
        if step % plan.schedule.val_check_interval == 0:
            time += 1.0
            found.append({"event": "validation", "time": time, "step": step, "val_loss": loss + 0.3})
    return found


def end_event(step: int, time: float, reason: str = "finished") -> dict[str, Any]:
    return {"event": "end", "time": time, "step": step, "reason": reason}


def append(plan: Plan, happened: list[dict[str, Any]]) -> None:
    """Add events to the run's metrics file."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with (plan.folder / metrics.FILE).open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in happened)


def write_export(plan: Plan, step: int = 100) -> Path:
    """The folder of an export that was proved after its checkpoint had been written."""
    source, folder = plan.folder / "checkpoints" / f"step_{step:08d}", plan.folder / EXPORTED
    os.utime(source / "manifest.json", (1, 1))
    folder.mkdir(exist_ok=True)
    (folder / REPORT).write_text(json.dumps({"verified": True, "source": str(source)}))
    return folder


def write_run(
    folder: Path,
    steps: int = 100,
    upto: int | None = None,
    reason: str | None = "finished",
    killed_at: int | None = None,
    began: float = BEGAN,
    slurm: dict[str, str] | None = None,
    **settings: Any,
) -> Plan:
    """A whole run folder. `reason` None: no end was written; `killed_at`: a first start that left no end.

    `slurm`: the job and nodes of all starts, each a restart of the one before.
    """
    plan = make_plan(folder, steps, **settings)
    upto = upto or steps
    happened = history(plan, killed_at, began=began) if killed_at else []
    again = (killed_at or 0) // plan.schedule.save_every * plan.schedule.save_every
    happened += history(plan, upto, first=again + 1, began=happened[-1]["time"] + 60 if happened else began)
    if reason:
        happened.append(end_event(upto, happened[-1]["time"] + 0.2, reason))
    if slurm:
        for number, start in enumerate(event for event in happened if event["event"] == "start"):
            start["slurm"] = {**slurm, "restart": number}
    append(plan, happened)
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "config.yaml").write_text(config_text(plan))
    for number in range(2 if killed_at else 1):
        attempt = folder / "attempts" / f"20260528-20264{number}"
        attempt.mkdir(parents=True)
        (attempt / "versions.json").write_text(json.dumps(VERSIONS))
        (attempt / "launcher").mkdir()
        lines = [metrics.plain(event, steps, plan.settings.log_every) for event in happened]
        (attempt / "launcher" / "stdout.log").write_text("".join(f"{line}\n" for line in lines if line))
    if reason:
        metrics.write_summary(plan, reason)
    for step in [e["step"] for e in happened if e["event"] == "checkpoint"][-2:]:
        checkpoint = folder / "checkpoints" / f"step_{step:08d}"
        (checkpoint / "weights").mkdir(parents=True, exist_ok=True)
        (checkpoint / "weights" / "__0_0.distcp").write_bytes(b"x" * 1000)
        files = {"weights/__0_0.distcp": {"bytes": 1000}}
        (checkpoint / "manifest.json").write_text(json.dumps({"version": 1, "files": files, "step": step}))
    return plan


def reported(folder: Path) -> RunFolder:
    """A finished run that was killed once, with a note that is no markup, and its report."""
    notes = [{"event": "note", "time": BEGAN, "text": "<script>alert(1)</script> & more"}]
    append(write_run(folder, killed_at=60), notes)
    write_report(RunFolder(folder))
    return RunFolder(folder)
