"""<run>/metrics.jsonl: one JSON object per line for each step, validation, checkpoint, start and end.

The worker's rank 0 appends, everything else only reads: the live line, the report, `runs`.
"""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir.metric_table import IN_LINE, METRICS, SET_LOSSES, words
from nemo_workflow.utils.console import counted, human_bytes, human_time
from nemo_workflow.utils.files import write_json
from nemo_workflow.utils.libraries import version
from nemo_workflow.utils.processes import signal_name

FILE = "metrics.jsonl"
SUMMARY = "summary.json"
VERSIONS = "versions.json"  # in an attempt: the launcher's
RANK_VERSIONS = "rank_versions.json"  # rank 0's, which a container may hold
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


def last(path: Path, block: int = 1 << 17) -> dict[str, dict[str, Any]]:
    """The last event of each kind among the last `block` bytes, without reading the rest."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - block))
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for line in reversed(lines[1:] if size > block else lines):
        kind = line[11:40].partition(b'"')[0].decode(errors="replace") if line.startswith(b'{"event": "') else ""
        if kind and kind not in found:
            with contextlib.suppress(ValueError):
                found[kind] = json.loads(line)
    return found


def cut_torn_line(path: Path) -> None:
    """End a line that a killed run left unfinished, so that the next event stands on its own."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as stream:
        stream.seek(-1, 2)
        if stream.read(1) != b"\n":
            stream.write(b"\n")


def event(path: Path, kind: str, /, **values: Any) -> None:
    """Append one event; for the launcher, between two starts, when no rank writes."""
    cut_torn_line(path)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"event": kind, "time": round(time.time(), 3), **values}) + "\n")


def effective(all_events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events of the history that counts: steps that a resumed run repeats are dropped."""
    kept: list[dict[str, Any]] = []
    for event in all_events:
        if event["event"] == "start":
            begin = event["step"]
            kept = [e for e in kept if e["event"] == "start" or (e.get("step") or 0) <= begin]
        kept.append(event)
    return kept


def validated(folder: Path, step: int) -> bool:
    """Whether the history that counts holds the validation after a step."""
    return any(e["event"] == "validation" and e["step"] == step for e in effective(read(folder / FILE)))


def plain(event: dict[str, Any], max_steps: int, log_every: int) -> str | None:
    """The event as a line of a log, or None where it isn't worth one or a note beside it says it already."""
    kind, step = event["event"], event.get("step") or 0
    if kind == "step":
        return progress(event, max_steps) if step % log_every == 0 or step == max_steps else None
    write = _LINES.get(kind)
    return write(event, step) if write else None


def _start(event: dict[str, Any], step: int) -> str:
    return (
        f"resuming after step {step} of {event['max_steps']}"
        if step
        else f"starting: {counted(event['max_steps'], 'step')}"
    )


def _validation(event: dict[str, Any], step: int) -> str | None:
    if event["val_loss"] is None:
        return None
    sets = (f", {name} {loss:.4f}" for name, loss in (event.get(SET_LOSSES) or {}).items() if loss is not None)
    return f"step {step}: validation loss {event['val_loss']:.4f}{''.join(sets)}"


def _checkpoint(event: dict[str, Any], step: int) -> str:
    return f"step {step}: checkpoint saved, {human_bytes(event['bytes'])} in {event['seconds']:.1f} s"


def _spike(event: dict[str, Any], step: int) -> str:
    return f"step {step}: warning: loss {event['loss']:.4f}, far above the usual {event['usual']:.4f}"


def _stopping(event: dict[str, Any], step: int) -> str:
    name = signal_name(event["signal"])
    return f"step {step}: asked to stop ({name}); saving a checkpoint"


def _end(event: dict[str, Any], step: int) -> str | None:
    return f"finished after step {step}" if event["reason"] == "finished" else None  # the launcher says why it stopped


def _export(event: dict[str, Any], step: int) -> str:
    if event["problem"]:
        return f"step {step}: not exported to Hugging Face: {event['problem']}"
    pushed = f", and uploaded to {event['hub']}" if event["hub"] else ""
    return f"step {step}: exported and verified in {human_time(event['seconds'])}: {event['path']}{pushed}"


_LINES: dict[str, Callable[[dict[str, Any], int], str | None]] = {
    "start": _start,
    "validation": _validation,
    "checkpoint": _checkpoint,
    "export": _export,
    "profile": lambda event, step: f"step {step}: profiled; the trace is {event['path']}",
    "note": lambda event, step: str(event["text"]),
    "restart": lambda event, step: str(event["text"]),
    "spike": _spike,
    "stopping": _stopping,
    "end": _end,
}
# the worker writes a note, or fails, right after these, and the launcher has said the last on the screen
SAID_BY_A_NOTE = ("nonfinite", "save_failed", "exporting")


def progress(
    event: dict[str, Any],
    max_steps: int,
    left: float | None = None,
    val_loss: float | None = None,
    width: int | None = None,
) -> str:
    """One step as text, with the last validation loss and, when `left` seconds are given, the time left.

    What matters least is left out until the text fits `width` characters.
    """
    shown = words(event | ({} if val_loss is None else {"val_loss": val_loss}))
    parts = {"step": f"step {event['step']}/{max_steps}"} | shown
    if left is not None:
        parts["left"] = f"{human_time(left)} left"
    for metric in sorted(IN_LINE, key=lambda metric: metric.dropped):
        if width is None or len("  ".join(parts.values())) <= width:
            break
        parts.pop(metric.name, None)
    return "  ".join(parts.values())


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what a run does."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        here = version(name)
        if here:
            found[name] = here
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
            "val_step": validations[-1]["step"] if validations else None,
            SET_LOSSES: validations[-1].get(SET_LOSSES, {}) if validations else {},
            "steps": last.get("step", 0),
            "max_steps": plan.schedule.max_steps,
            "consumed_samples": last.get("consumed_samples", 0),
            **{metric.name: _median(steps, metric.name) for metric in METRICS if metric.median},
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
