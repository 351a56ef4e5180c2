"""What is known of a run when its rules are checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_workflow.config.parallelism import Layout
from nemo_workflow.config.schedule import Branch, Schedule
from nemo_workflow.config.settings import Settings
from nemo_workflow.data.blend import Source, ValidationSet
from nemo_workflow.data.splits import Part
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.models.pretrained import NemoModel, Tokenizer


@dataclass
class Run:
    """What is known of a run when its rules are checked; None or empty where it couldn't be found out."""

    settings: Settings
    accelerator: str
    recipe: Recipe | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    seq_length: int = 0
    vocab_size: int = 0
    vocab_from: str = ""  # whose entries were counted, where it isn't the tokenizer that will be used
    hf_folder: Path | None = None
    hf_config: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    nemo_model: NemoModel | None = None
    layout: Layout | None = None
    sources: tuple[Source, ...] = ()
    parts: tuple[tuple[Part, ...], ...] = ()
    schedule: Schedule | None = None
    branch: Branch | None = None
    validation_sets: tuple[ValidationSet, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def every_source(self) -> tuple[Source, ...]:
        """What is trained on, and what is only validated on."""
        return (*self.sources, *(source for one in self.validation_sets for source in one.sources))

    def samples(self, part: int) -> int:
        """Samples an epoch of the training (0), validation (1) or test (2) parts of all sources."""
        return sum(parts[part].samples(self.seq_length) for parts in self.parts)

    @property
    def batch_words(self) -> str:
        """The value of --global-batch-size as a refusal names it."""
        return f"{self.settings.global_batch_size}{'' if self.given('global_batch_size') else ' (the default)'}"

    def given(self, *attributes: str) -> list[str]:
        """Those of the flags that the user set, as they are written."""
        return [f"--{name.replace('_', '-')}" for name in attributes if name in self.settings.given]

    @property
    def recompute_granularity(self) -> str | None:
        """The flag's value, or the recipe's own where the flag is unset."""
        given = self.settings.recompute_granularity
        return self.sizes.get("recompute_granularity") if given is None else given
