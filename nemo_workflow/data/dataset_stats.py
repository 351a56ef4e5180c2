"""The largest token id of a dataset: from the figures that preprocessing left beside it, else from the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_workflow.data.indexed_dataset import DTYPES, Pair

WHOLE = 200_000_000  # bytes read in full; of a larger file a sample is
BLOCKS, BLOCK = 64, 1 << 20


def figures(pair: Pair) -> dict[str, Any]:
    """What preprocessing wrote beside the pair, or nothing; figures older than their data are not believed."""
    path = Path(f"{pair.prefix}.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    believable = isinstance(found, dict) and found.get("tokens") == pair.tokens
    return found if believable else {}


def largest_token(pair: Pair) -> int | None:
    """The largest id in the pair, or in a sample of a large one; None if it holds no token."""
    known = figures(pair).get("largest_token_id")
    if isinstance(known, int):
        return known
    if not pair.tokens:
        return None
    import numpy as np  # 0.1 s that only data without figures needs

    width = next(width for name, width in DTYPES.values() if name == pair.dtype)
    data = np.memmap(f"{pair.prefix}.bin", dtype=np.dtype(pair.dtype), mode="r")
    if pair.tokens * width <= WHOLE:
        return int(data.max())
    block = BLOCK // width
    starts = np.linspace(0, len(data) - block, BLOCKS).astype(np.int64)
    return max(int(data[start : start + block].max()) for start in starts)
