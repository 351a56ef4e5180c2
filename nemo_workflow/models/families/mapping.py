"""A family's rules spread over the layers and experts of one model: the list of tensors that conversion walks through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nemo_workflow.models.families.base import Config, Family


@dataclass(frozen=True)
class Item:
    """One Megatron tensor (`nemo` may hold {l} and {e}, filled by `layer` and `expert`) and its Hugging Face tensors."""

    kind: str
    nemo: str
    hf: tuple[str, ...]
    layer: int | None
    expert: int | None
    alias: str | None = None

    @property
    def has_vocabulary(self) -> bool:
        """Whether it has a row for each token."""
        return self.kind.startswith("vocab")

    @property
    def label(self) -> str:
        return self.nemo.replace("{l}", str(self.layer)).replace("{e}", str(self.expert))


def items(family: Family, hf: Config) -> Iterator[Item]:
    """Everything outside the layers first, then layer by layer."""
    rules = family.rules(hf)
    for rule in rules:
        if "{l}" not in rule.nemo:
            yield Item(rule.kind, rule.nemo, rule.hf, None, None)
    for layer in range(hf["num_hidden_layers"]):
        for rule in rules:
            if "{l}" not in rule.nemo or layer not in rule.layers(hf):
                continue
            experts = range(family.experts(hf)) if "{e}" in rule.nemo else [None]
            for expert in experts:
                names = tuple(name.replace("{l}", str(layer)).replace("{e}", str(expert)) for name in rule.hf)
                yield Item(rule.kind, rule.nemo, names, layer, expert, rule.alias)
