"""The numbers of a step and of a validation: one row each. The run's log, live line, loggers, charts and summary read it.

A new metric is a row here and a line in training/step_metrics.py, which computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nemo_workflow.utils.console import human_bytes, human_count


@dataclass(frozen=True)
class Chart:
    """Where a metric is drawn. Metrics of one title share a chart."""

    title: str
    label: str = ""  # of the vertical axis
    scale: float = 1.0  # what a value is multiplied by
    from_zero: bool = False
    noisy: bool = False  # drawn as a running mean too, where there are steps enough
    by_tokens: bool = False  # drawn a second time over the tokens seen


@dataclass(frozen=True)
class Metric:
    """One number. `name` is its field in metrics.jsonl.

    Attributes:
        label: what a person reads.
        logger: its name in TensorBoard and W&B: NeMo's own where it has one.
        event: the kind of event that holds it.
        logged_by_nemo: NeMo logs it under `logger`, and it is read from there.
        text: its words in the live line and the log; None: it isn't shown there.
        rank: its place among those words; where they don't fit, `dropped` says which goes first (the lowest).
        median: summary.json holds the median of the last steps.
    """

    name: str
    label: str
    logger: str
    event: str = "step"
    logged_by_nemo: bool = False
    text: Callable[[float], str] | None = None
    rank: int = 0
    dropped: int = 0
    chart: Chart | None = None
    median: bool = False

    def value(self, event: dict[str, Any]) -> float | None:
        """The number in an event, or None where it has none."""
        return event.get(self.name)


_LOSS = Chart("Loss", "nats per token", noisy=True, by_tokens=True)
_SPEED = Chart("Speed", "tokens/s", from_zero=True, noisy=True)

METRICS: tuple[Metric, ...] = (
    Metric(
        "loss", "training loss", "reduced_train_loss", logged_by_nemo=True, chart=_LOSS,
        text="loss {:.4f}".format, rank=1, dropped=7,
    ),
    Metric("val_loss", "validation loss", "val_loss", event="validation", chart=_LOSS, text="val {:.4f}".format, rank=2, dropped=5),
    Metric(
        "lr", "learning rate", "lr", logged_by_nemo=True, chart=Chart("Learning rate"),
        text="lr {:.3g}".format, rank=4, dropped=2,
    ),
    Metric(
        "grad_norm", "gradient norm", "grad_norm", logged_by_nemo=True, chart=Chart("Gradient norm", noisy=True),
        text="grad norm {:.2f}".format, rank=3, dropped=3,
    ),
    Metric("consumed_samples", "consumed samples", "consumed_samples"),
    Metric("seconds", "seconds per step", "step_seconds"),
    Metric(
        "tokens_per_second", "tokens/s", "tokens_per_second", chart=_SPEED, median=True,
        text=lambda rate: f"{human_count(rate)} tokens/s", rank=5, dropped=6,
    ),
    Metric("samples_per_second", "samples/s", "samples_per_second", median=True),
    Metric("tflops_per_gpu", "TFLOP/s per GPU", "tflops_per_gpu", median=True),
    Metric(
        "mfu", "MFU", "mfu", chart=Chart("MFU", "%", scale=100, from_zero=True, noisy=True), median=True,
        text=lambda share: f"MFU {share:.1%}" if share else "", rank=6, dropped=4,
    ),
    Metric(
        "memory_bytes", "memory", "memory_bytes",
        chart=Chart("Memory", "GiB, highest since the start", scale=1 / 2**30, from_zero=True),
        text=lambda size: human_bytes(int(size)), rank=7, dropped=1,
    ),
)  # fmt: skip
IN_LINE = tuple(sorted((metric for metric in METRICS if metric.text), key=lambda metric: metric.rank))
SET_LOSSES = "set_losses"  # of a validation event: name of a --validation-dir -> its loss
SOURCE_LOSSES = "source_losses"  # of a step event of the log: name of a source -> its loss since the last one
LOGGER_NAMES = {metric.name: metric.logger for metric in METRICS}


def logged(values: dict[str, Any]) -> dict[str, float]:
    """A step's or a validation's numbers under the loggers' names; val_loss/NAME of each validation set, train_loss/NAME of each source."""
    plain = {LOGGER_NAMES[name]: value for name, value in values.items() if name in LOGGER_NAMES}
    sets = {f"val_loss/{name}": value for name, value in (values.get(SET_LOSSES) or {}).items()}
    sets |= {f"train_loss/{name}": value for name, value in (values.get(SOURCE_LOSSES) or {}).items()}
    return {name: value for name, value in (plain | sets).items() if value is not None}


def words(values: dict[str, Any]) -> dict[str, str]:
    """Name -> text of each metric that a line shows and `values` has, in the line's order."""
    found = {}
    for metric in IN_LINE:
        value = values.get(metric.name)
        if metric.text is not None and value is not None and (text := metric.text(value)):
            found[metric.name] = text
    return found
