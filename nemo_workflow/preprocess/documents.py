"""JSON lines -> texts. Fast for good lines, careful and explicit for the others. Imports no numpy."""

from __future__ import annotations

import codecs
import itertools
import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Reject:
    """A bad line: `line` counts from 1 (a row in Parquet); `reason` is one of a few words, `detail` says where."""

    line: int
    reason: str
    detail: str


class BadLine(ValueError):
    """Why a line holds no document."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def parse_lines(buffer: bytes, keys: tuple[str, ...]) -> tuple[list[list[str]], list[Reject], int]:
    """All documents of whole lines: texts by key, bad lines (numbered from 1 within `buffer`), number of lines.

    Blank lines are no documents, and a byte order mark at the start of a line is none of its text. A line that lacks one of several keys is bad as a whole, so that outputs stay aligned.
    """
    lines = buffer.split(b"\n")
    if not lines[-1]:
        lines.pop()
    columns = _parse_good(lines, keys)
    if columns is not None:
        return columns, [], len(lines)
    columns, rejects = [[] for _ in keys], []
    for number, line in enumerate(lines, start=1):
        while line.startswith(BOM):  # of files that were joined; json reads none
            line = line[len(BOM) :]
        if not line.strip():
            continue
        try:
            texts = pick_texts(parse_line(line), keys)
        except BadLine as bad:
            rejects.append(Reject(number, bad.reason, bad.detail))
            continue
        for column, text in zip(columns, texts, strict=True):
            column.append(text)
    return columns, rejects, len(lines)


def _parse_good(lines: list[bytes], keys: tuple[str, ...]) -> list[list[str]] | None:
    """Texts by key, or None when any line needs a closer look."""
    loads = orjson.loads
    try:
        if len(keys) == 1:
            key = keys[0]
            columns = [[loads(line)[key] for line in lines if line]]
        else:
            rows = [[record[key] for key in keys] for record in (loads(line) for line in lines if line)]
            columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in keys]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    if any(not set(map(type, column)) <= {str} for column in columns):
        return None
    return columns


def parse_line(line: bytes) -> Any:
    """One JSON value. Python's own reader has the last word: it takes NaN and huge numbers, which json.dumps writes."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        first_error = error
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine("invalid UTF-8", f"byte 0x{line[error.start]:02x} at position {error.start + 1}") from None
    try:
        return json.loads(text)
    except RecursionError:
        raise BadLine("broken JSON", "nested too deeply") from None
    except ValueError:
        detail = str(first_error)
        if len(line) < 200_000 and line.rstrip().endswith(b"}") is False:
            detail += " (the line does not end with })"
        raise BadLine("broken JSON", detail) from None


def pick_texts(record: Any, keys: tuple[str, ...]) -> list[str]:
    """The texts under `keys`; raises BadLine."""
    if not isinstance(record, dict):
        raise BadLine("not an object", f"a JSON {_kind(record)} instead of an object with a {keys[0]!r} key")
    texts = []
    for key in keys:
        texts.append(check_text(value_at(record, key), key))
    return texts


def value_at(record: dict[str, Any], key: str) -> Any:
    """What stands under `key`; with dots it leads into objects within objects, whose keys may have dots. Raises BadLine."""
    try:
        return _within(record, key)
    except KeyError:
        found = ", ".join(map(repr, list(record)[:5])) or "no keys"
        raise BadLine(
            "key missing", f"no {key!r} among {found}{_longest_text(record) or _list_within(record)}"
        ) from None


def _longest_text(record: dict[str, Any]) -> str:
    """The key under which an object, or one within it, has its longest text, as it is named."""
    texts = {key: value for key, value in record.items() if isinstance(value, str)}
    texts |= {
        f"{outer}.{key}": text
        for outer, value in record.items()
        if isinstance(value, dict)
        for key, text in value.items()
        if isinstance(text, str)
    }
    name = max(texts, key=lambda key: len(texts[key]), default="")
    return f" (its longest text: --json-keys {shlex.quote(name)})" if name and texts[name].strip() else ""


def _list_within(record: dict[str, Any]) -> str:
    """What helps where the documents are in a list under a key of one object."""
    lists = (name for name, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict))
    name = next((name for name in lists if name.isidentifier()), None)
    return f" (if each object of {name!r} is a document: `jq -c '.{name}[]' OLD > NEW.jsonl`)" if name else ""


def _within(record: Any, key: str) -> Any:
    if not isinstance(record, dict):
        raise KeyError(key)
    if key in record:
        return record[key]
    dot = key.find(".")
    while dot >= 0:
        if key[:dot] in record:
            try:
                return _within(record[key[:dot]], key[dot + 1 :])
            except KeyError:  # a longer beginning may lead further
                pass
        dot = key.find(".", dot + 1)
    raise KeyError(key)


def check_text(value: Any, key: str, before: int = 0) -> str:
    """`value`, which begins after `before` characters, if it is a text that UTF-8 can hold; raises BadLine."""
    if not isinstance(value, str):
        raise BadLine("not a string", f"{key!r} holds a JSON {_kind(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadLine(
                "lone surrogate",
                f"{key!r} holds U+{ord(value[error.start]):04X} at character {before + error.start + 1}",
            ) from None
    return value


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    """The text of a file that is one document, piece by piece; raises BadLine for what is no text in UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    position = 0
    for block in itertools.chain(blocks, [b""]):
        nul = block.find(b"\0")
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # `object` is the block with what was left over of the one before it
            at = position + len(block) - len(error.object) + error.start
            if nul < 0 or at < position + nul:
                raise BadLine("invalid UTF-8", f"byte 0x{error.object[error.start]:02x} at position {at + 1}") from None
        if nul >= 0:
            raise BadLine("NUL byte", f"byte 0x00 at position {position + nul + 1}, which no text has")
        yield text
        position += len(block)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")


def utf8_size(texts: list[str]) -> int:
    """Bytes of the texts in UTF-8."""
    return sum(len(text) if text.isascii() else len(text.encode("utf-8")) for text in texts)
