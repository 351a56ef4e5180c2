"""The token ids of a dataset: from the figures that preprocessing left beside it, else from the data."""

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


def vouched_for(pair: Pair) -> bool:
    """Whether the figures beside a pair are of this very pair: neither file has changed since they were written."""
    if not figures(pair):
        return False
    figures_time, *pair_times = (
        Path(f"{pair.prefix}.{ending}").stat().st_mtime_ns for ending in ("json", "idx", "bin")
    )
    return figures_time >= max(pair_times)


def token_range(pair: Pair) -> tuple[int, int] | None:
    """Smallest and largest id in the pair, or in a sample of a large one; None if it holds no token.

    The smallest is only looked for where it may be negative: 0 otherwise.
    """
    known = figures(pair).get("largest_token_id")
    if isinstance(known, int) and (vouched_for(pair) or pair.dtype.startswith("u")):
        return 0, known
    if not pair.tokens:
        return None
    import numpy as np  # 0.1 s that only data without figures needs

    width = next(width for name, width in DTYPES.values() if name == pair.dtype)
    data = np.memmap(f"{pair.prefix}.bin", dtype=np.dtype(pair.dtype), mode="r")
    if pair.tokens * width <= WHOLE:
        return int(data.min()), int(data.max())
    block = BLOCK // width
    starts = np.linspace(0, len(data) - block, BLOCKS).astype(np.int64)
    parts = [data[start : start + block] for start in starts]
    return min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
