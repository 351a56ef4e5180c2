"""Every rule that a run must meet before anything is launched. Each problem names flag, value and mend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_workflow.catalog import Recipe
from nemo_workflow.layout import Layout
from nemo_workflow.options import TABLE, Settings
from nemo_workflow.plan import Source
from nemo_workflow.pretrained import NemoModel, Tokenizer
from nemo_workflow.schedule import Schedule
from nemo_workflow.splits import Part


@dataclass
class Run:
    """What is known of a run when its rules are checked; None or empty where it couldn't be found out."""

    settings: Settings
    accelerator: str
    recipe: Recipe | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    seq_length: int = 0
    vocab_size: int = 0
    hf_folder: Path | None = None
    hf_config: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    nemo_model: NemoModel | None = None
    layout: Layout | None = None
    sources: tuple[Source, ...] = ()
    parts: tuple[tuple[Part, ...], ...] = ()
    schedule: Schedule | None = None
    notes: list[str] = field(default_factory=list)

    def samples(self, part: int) -> int:
        """Samples an epoch of the training (0), validation (1) or test (2) parts of all sources."""
        return sum(parts[part].samples(self.seq_length) for parts in self.parts)


def find_problems(run: Run) -> list[str]:
    """Every broken rule, in the order of the table of options."""
    return [problem for rule in RULES for problem in rule(run)]


def smallest_values(run: Run) -> Iterator[str]:
    for option in TABLE:
        value = run.settings.values[option.attribute]
        if option.least is not None and value is not None and not value >= option.least:
            yield f"--{option.name} {value}: must be {option.least} or more"


def enough_data(run: Run) -> Iterator[str]:
    if run.parts and run.seq_length > 0 and run.samples(0) < run.settings.global_batch_size:
        yield (
            f"--global-batch-size {run.settings.global_batch_size}: the training split holds only {run.samples(0)}"
            f" samples of {run.seq_length} tokens, less than one step; lower --global-batch-size or --seq-length,"
            " or add data"
        )


RULES = (smallest_values, enough_data)
