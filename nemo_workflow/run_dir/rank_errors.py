"""The errors that a start's ranks have left in its folder, and which of them only follow from another rank's end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ERROR_LINE = re.compile(r"^([\w.]+): .+")  # as Python ends a traceback
# what gloo, NCCL and torch's store say in the ranks that have lost another
LOST_PEER = re.compile(
    r"Connection (closed|reset) by|Broken pipe|Socket closed|remote process exited|NCCL communicator was aborted"
)


@dataclass(frozen=True)
class RankError:
    """What a rank left as it failed: when, in seconds since the epoch, and its message or its traceback."""

    rank: int
    when: float
    text: str

    @property
    def message(self) -> str:
        """The error in a line; of a traceback, what follows its frames."""
        lines = self.text.strip().splitlines()
        after_frames = max((at + 1 for at, line in enumerate(lines) if line.startswith("  ")), default=0)
        said = [line for line in lines[after_frames:] if ERROR_LINE.match(line)] or lines[-1:] or ["no message"]
        return said[0]

    @property
    def lost_peer(self) -> bool:
        """Whether it failed because another rank was gone."""
        return bool(LOST_PEER.search(self.message))


def errors_of(attempt: Path) -> list[RankError]:
    """What the ranks left in the folder of a start, by time; first those that did not fail because another was gone."""
    found = []
    for path in attempt.glob("rank*.error"):
        when, _, text = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        found.append(RankError(int(path.stem.removeprefix("rank")), float(when or path.stat().st_mtime), text))
    return sorted(found, key=lambda error: (error.lost_peer, error.when, error.rank))
