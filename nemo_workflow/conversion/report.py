"""The proof of a conversion: conversion_report.json in the output folder, and a few lines on the terminal."""

from __future__ import annotations

import datetime
import importlib.metadata
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_workflow.utils.console import counted, human_bytes
from nemo_workflow.utils.files import write_json

NAME = "conversion_report.json"

LARGE_LOGITS = 1000.0  # their standard deviation; a model that has learned has one of a few units
DIVERGED = (
    " (logits this large are of a training that has diverged: Megatron masks an attention score with -10000, and scores below that"
    " let it see later tokens, where transformers sees none; train again with a lower --lr)"
)


@dataclass
class Report:
    """Filled while the conversion goes on."""

    direction: str
    source: str
    output: str
    entries: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def failures(self) -> list[str]:
        """What ends a conversion without an output. With a loss that was permitted, the logits may differ."""
        found = list(self.entries.get("tensors", {}).get("different", []))
        if self.logits_differ and not self.entries.get("lossy"):
            found.append(self._difference())
        return found

    def _difference(self) -> str:
        logits = self.entries["logits"]
        diverged = DIVERGED if logits["standard_deviation"] > LARGE_LOGITS else ""
        return (
            f"logits differ by up to {logits['largest_difference']:.3g} where {logits['allowed_difference']:.3g} is the most "
            f"that rounding explains; argmax agrees on {logits['argmax_agreement']:.1%}{diverged}"
        )

    @property
    def logits_differ(self) -> bool:
        return bool(self.entries.get("logits", {}).get("verdict") == "different")

    def as_dict(self) -> dict[str, Any]:
        versions = {}
        for name in ("torch", "transformers", "safetensors", "nemo_toolkit", "megatron-core"):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return {
            "direction": self.direction,
            "source": self.source,
            "output": self.output,
            # a permitted loss is no proof that the logits agree
            "verified": "tensors" in self.entries and not self.failures() and not self.logits_differ,
            **self.entries,
            "notes": self.notes,
            "seconds": round(time.monotonic() - self.started, 2),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions,
        }

    def write(self, path: Path) -> None:
        write_json(path, self.as_dict())

    def lines(self) -> list[str]:
        """What the terminal shows."""
        found = []
        tensors, logits = self.entries.get("tensors"), self.entries.get("logits")
        if tensors is None:
            found.append("not verified (--no-verify)")
        else:
            found.append(
                f"tensors: {tensors['compared']} ({human_bytes(tensors['bytes'])}) mapped back and compared bit for bit, "
                f"{len(tensors['different']) or 'none'} different; {counted(tensors['vocabulary_rows'], 'vocabulary row')}"
                + (f", {tensors['padded_rows_cut']} padded ones cut" if tensors["padded_rows_cut"] else "")
            )
        if logits and "largest_difference" in logits:
            found.append(
                f"logits: largest difference {logits['largest_difference']:.3g} (logits' standard deviation "
                f"{logits['standard_deviation']:.3g}), argmax agrees on {logits['argmax_agreement']:.1%} of {counted(logits['tokens'], 'token')}"
            )
        if self.entries.get("lossy"):
            found.append(f"lost with permission: {', '.join(self.entries['lossy'])}")
            if self.logits_differ:
                found.append(f"not verified, with that permission: {self._difference()}")
        return found + [f"note: {note}" for note in self.notes]
