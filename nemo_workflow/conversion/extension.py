"""What --extend-vocabulary makes of a model's vocabulary, in numbers and words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_workflow.utils.console import counted


@dataclass(frozen=True)
class Extension:
    """What becomes of a vocabulary.

    `pieces` are the new ids, and for each the old ids whose rows' mean it gets; none: the mean of all rows, with noise.
    `before` and `rows` are the embedding's rows before and after.
    """

    tokenizer: Path
    pieces: dict[int, tuple[int, ...]]
    before: int
    rows: int

    @cached_property
    def without_pieces(self) -> int:
        return sum(not found for found in self.pieces.values())

    def entries(self) -> dict[str, Any]:
        """The report's `vocabulary` entry."""
        return {
            "tokenizer": str(self.tokenizer),
            "rows_before": self.before,
            "rows": self.rows,
            "new_tokens": len(self.pieces),
            "from_pieces": len(self.pieces) - self.without_pieces,
            "from_mean_of_all": self.without_pieces,
        }

    def line(self) -> str:
        """What the terminal shows."""
        said = (
            f"{counted(len(self.pieces), 'new token')}: {len(self.pieces) - self.without_pieces:,} begin with the mean of their"
            f" old pieces' rows"
        )
        if self.without_pieces:
            said += (
                f", {self.without_pieces:,} (special, or without old pieces) with the mean of all rows and seeded noise"
            )
        spare = sum(token < self.before for token in self.pieces)
        if spare:
            said += f"; {spare:,} of them take rows that no old token had"
        grown = f"{self.before:,} -> {self.rows:,}" if self.rows > self.before else f"{self.rows:,}, as before"
        return f"{said}; rows: {grown}"
