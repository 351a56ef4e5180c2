"""<run>/metrics.jsonl: one JSON object a line for each step, validation, checkpoint, start and end. Light.

The worker's rank 0 appends, everything else only reads: the live line, the report, `runs`.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from nemo_workflow.console import human_bytes, human_count, human_time
from nemo_workflow.files import write_json
from nemo_workflow.plan import Plan

FILE = "metrics.jsonl"
SUMMARY = "summary.json"
PACKAGES = ("torch", "nemo_toolkit", "megatron-core", "nemo_run", "lightning", "transformers", "transformer-engine")


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole event of a run; a torn last line (the run was killed) is left out."""
    return list(Tail(path).new())


class Tail:
    """Reads what was appended to metrics.jsonl since the last call."""

    def __init__(self, path: Path, from_end: bool = False):
        self.path = path
        self.offset = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Events appended since the last call; a line without its end waits for the next call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # torn by a kill, then closed by the next start


def cut_torn_line(path: Path) -> None:
    """End a line that a killed run left unfinished, so that the next event stands on its own."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as stream:
        stream.seek(-1, 2)
        if stream.read(1) != b"\n":
            stream.write(b"\n")


def effective(all_events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events of the history that counts: steps that a resumed run repeats are dropped."""
    kept: list[dict[str, Any]] = []
    for event in all_events:
        if event["event"] == "start":
            begin = event["step"]
            kept = [e for e in kept if e["event"] == "start" or (e.get("step") or 0) <= begin]
        kept.append(event)
    return kept


def plain(event: dict[str, Any], max_steps: int, log_every: int) -> str | None:
    """The event as a line of a log, or None where it isn't worth one."""
    kind, step = event["event"], event.get("step") or 0
    if kind == "step":
        if step % log_every and step != max_steps:
            return None
        return progress(event, max_steps)
    if kind == "start":
        return (
            f"resuming after step {step} of {event['max_steps']}" if step else f"starting: {event['max_steps']} steps"
        )
    if kind == "validation" and event["val_loss"] is not None:
        return f"step {step}: validation loss {event['val_loss']:.4f}"
    if kind == "checkpoint":
        return f"step {step}: checkpoint saved, {human_bytes(event['bytes'])} in {event['seconds']:.1f} s"
    if kind == "note":
        return str(event["text"])
    if kind == "spike":
        return f"step {step}: warning: loss {event['loss']:.4f}, far above the usual {event['usual']:.4f}"
    if kind == "stopping":
        return f"step {step}: asked to stop (signal {event['signal']}); saving a checkpoint"
    return None


def progress(event: dict[str, Any], max_steps: int, left: float | None = None) -> str:
    """One step as text: step, loss, learning rate, speed and, when `left` seconds are given, the time left."""
    parts = [f"step {event['step']}/{max_steps}"]
    if event["loss"] is not None:
        parts.append(f"loss {event['loss']:.4f}")
    if event["grad_norm"] is not None:
        parts.append(f"grad norm {event['grad_norm']:.2f}")
    if event["lr"] is not None:
        parts.append(f"lr {event['lr']:.3g}")
    parts.append(f"{human_count(event['tokens_per_second'])} tokens/s")
    if event.get("mfu"):
        parts.append(f"MFU {event['mfu']:.1%}")
    parts.append(human_bytes(event["memory_bytes"]))
    if left is not None:
        parts.append(f"{human_time(left)} left")
    return "  ".join(parts)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what a run does."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_summary(plan: Plan, reason: str) -> None:
    """Write <run>/summary.json from the run's own events."""
    history = effective(read(plan.folder / FILE))
    steps = [e for e in history if e["event"] == "step"]
    validations = [e for e in history if e["event"] == "validation"]
    last = steps[-1] if steps else {}
    write_json(
        plan.folder / SUMMARY,
        {
            "state": reason,
            "final_loss": last.get("loss"),
            "first_loss": steps[0]["loss"] if steps else None,
            "val_loss": validations[-1]["val_loss"] if validations else None,
            "steps": last.get("step", 0),
            "max_steps": plan.schedule.max_steps,
            "consumed_samples": last.get("consumed_samples", 0),
            "tokens_per_second": _median(steps, "tokens_per_second"),
            "tflops_per_gpu": _median(steps, "tflops_per_gpu"),
            "mfu": _median(steps, "mfu"),
            "peak_memory_bytes": max((e["memory_bytes"] for e in steps), default=None),
            "restarts": sum(e["event"] == "start" for e in history) - 1,
            "model_name": plan.model_name,
            "accelerator": plan.accelerator,
            "versions": versions(),
            "command": list(plan.command),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def _median(steps: list[dict[str, Any]], name: str) -> float | None:
    """Median of the last 100 steps that have the value."""
    values = [step[name] for step in steps[-100:] if name in step]
    return round(statistics.median(values), 4) if values else None
