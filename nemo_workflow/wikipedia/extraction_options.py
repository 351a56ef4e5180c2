"""What makes two outputs of one dump differ."""

from __future__ import annotations

from dataclasses import dataclass

CLEANER = 3  # raise it when the text of a page changes: unfinished extractions then start again


@dataclass(frozen=True)
class Rules:
    """Which pages to keep, and how to write them."""

    min_chars: int = 50
    convert: str = "none"  # an OpenCC configuration, or none
    keep_metadata: bool = False
    max_pages: int | None = None
    cleaner: int = CLEANER
