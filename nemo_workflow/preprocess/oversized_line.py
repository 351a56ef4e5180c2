"""One JSON line too long to parse in memory: long strings stay on disk and are decoded piece by piece."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator

from nemo_workflow.preprocess.documents import BadLine, check_text, parse_line, value_at

LONG_STRING = 1 << 20  # raw bytes
PIECE = 1 << 20
_CLOSING_QUOTE = re.compile(rb'(?<!\\)(?:\\\\)*"')
# Where a raw JSON string may be cut: at a character with no escape in the 12 bytes before it (two \uXXXX of a surrogate
# pair), or at a backslash that begins an escape other than the second half of a pair.
_CUT = re.compile(rb"(?<=[^\\]{12})[\x20-\x7f\xc2-\xf4]|(?<!\\)\\(?!u[dD][c-fC-F])")


class RawString:
    """A JSON string on disk: `data[start:end]` without its quotes; `key` is the one that it was asked for under."""

    key = ""

    def __init__(self, data: mmap.mmap, start: int, end: int):
        self.data, self.start, self.end = data, start, end

    def pieces(self) -> Iterator[str]:
        """The text in pieces of about 1 MiB; raises BadLine."""
        before = 0
        for piece in self._parsed():
            yield check_text(piece, self.key, before)
            before += len(piece)

    def check_json(self) -> None:
        """Raise BadLine where it is no JSON string; as in a short line, it may hold a lone surrogate if nobody reads it."""
        for _ in self._parsed():
            pass

    def _parsed(self) -> Iterator[str]:
        at = self.start
        while at < self.end:
            cut = self.end
            if self.end - at > 2 * PIECE:
                found = _CUT.search(self.data, at + PIECE, self.end)
                cut = found.start() if found else self.end
            yield parse_line(b'"' + self.data[at:cut] + b'"')
            at = cut


def read_giant(data: mmap.mmap, start: int, end: int, keys: tuple[str, ...]) -> list[str | RawString]:
    """The values under `keys` of the JSON object in data[start:end]; long ones as RawString. Raises BadLine."""
    skeleton, strings = _skeleton(data, start, end)
    record = parse_line(skeleton)
    if not isinstance(record, dict):
        raise BadLine("not an object", "the line holds no JSON object")
    values: list[str | RawString] = []
    for key in keys:
        value = value_at(record, key)
        if isinstance(value, str) and value in strings:
            strings[value].key = key
            values.append(strings[value])
        else:
            values.append(check_text(value, key))
    for string in strings.values():
        if string not in values:  # the ones that nobody will read must be sound, too
            string.check_json()
    return values


def _skeleton(data: mmap.mmap, start: int, end: int) -> tuple[bytes, dict[str, RawString]]:
    """The line with each long string replaced by a short mark, and the strings by mark."""
    parts: list[bytes] = []
    strings: dict[str, RawString] = {}
    copied = at = start
    while True:
        opening = data.find(b'"', at, end)
        if opening < 0:
            break
        closing = _CLOSING_QUOTE.search(data, opening + 1, end)
        if closing is None:
            raise BadLine("broken JSON", f"a string that begins at byte {opening - start + 1} never ends")
        at = closing.end()
        if at - opening > LONG_STRING:
            mark = f"\u0000long string {len(strings)}"
            strings[mark] = RawString(data, opening + 1, at - 1)
            parts += [data[copied:opening], b'"\\u0000' + mark[1:].encode() + b'"']
            copied = at
    parts.append(data[copied:end])
    return b"".join(parts), strings
