"""The plan of a run: everything worked out from the flags before anything heavy is imported.

Data flows options -> plan -> recipe -> executor. The plan travels to the workers as JSON and holds no secret.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_workflow.config.card import PlannedCard
from nemo_workflow.config.parallelism import Layout
from nemo_workflow.config.schedule import Branch, Schedule
from nemo_workflow.config.settings import Settings
from nemo_workflow.data.blend import Source, ValidationSet
from nemo_workflow.data.indexed_dataset import Pair


@dataclass(frozen=True)
class Plan:
    """What a run will do. `settings` holds no secret; paths in it are absolute."""

    settings: Settings
    given: tuple[str, ...]  # attribute names of the flags that the user set
    accelerator: str  # "cpu" or "gpu"
    model_name: str
    layout: Layout
    sources: tuple[Source, ...]
    seq_length: int
    schedule: Schedule
    run_dir: str  # <output-dir>/<experiment>, absolute
    command: tuple[str, ...] = ()  # as typed, secrets replaced
    sizes: dict[str, Any] = field(default_factory=dict)  # the model's: the recipe's under those of --nemo-model
    vocab_size: int = 0  # entries of the tokenizer, unpadded
    vocab_from: str = ""  # whose they are, where the tokenizer isn't here yet
    card: PlannedCard | None = None  # None on a CPU
    validation_sets: tuple[ValidationSet, ...] = ()  # of --validation-dir
    branch: Branch | None = None  # of --decay-from
    time: dict[str, Any] | None = None  # config/run_time.py: what the run is planned to take
    nemo: str = ""  # version of the NeMo that the recipe's sizes and defaults were read from
    notes: tuple[str, ...] = ()  # what the user should know before it starts, a sentence each

    def to_json(self) -> str:
        values = asdict(replace(self, settings=Settings())) | {"settings": self.settings.public()}
        return json.dumps(values, indent=2)

    @staticmethod
    def from_json(text: str) -> Plan:
        raw = json.loads(text)
        raw["settings"] = Settings.from_public(raw["settings"], raw["given"])
        raw["layout"] = Layout(**raw["layout"])
        raw["schedule"] = Schedule(**raw["schedule"])
        raw["sources"] = _sources(raw["sources"])
        raw["validation_sets"] = tuple(
            ValidationSet(one["name"], _sources(one["sources"])) for one in raw.get("validation_sets", ())
        )
        raw["card"] = PlannedCard(**raw["card"]) if raw["card"] else None
        raw["branch"] = Branch(**raw["branch"]) if raw.get("branch") else None
        raw["given"] = tuple(raw["given"])
        raw["command"] = tuple(raw["command"])
        raw["notes"] = tuple(raw["notes"])
        return Plan(**raw)

    @property
    def folder(self) -> Path:
        return Path(self.run_dir)

    @property
    def pairs(self) -> int:
        """Of .bin/.idx, that a rank has open: of what is trained on, and of what is only validated on."""
        return len(self.sources) + sum(len(one.sources) for one in self.validation_sets)

    def batches_of(self, one: ValidationSet) -> int:
        """Global batches of a validation set at each validation: as many as of --split's part, and no sample twice."""
        whole = one.samples(self.seq_length) // self.settings.global_batch_size
        return min(self.schedule.limit_val_batches, max(1, whole))


def _sources(raw: list[dict[str, Any]]) -> tuple[Source, ...]:
    return tuple(Source(Pair(**s["pair"]), s["weight"], s.get("most_epochs")) for s in raw)
