"""Reads what W&B wrote offline: a log in LevelDB's format (32 KiB blocks of CRC, length, type, data) of protobufs.

A killed process leaves out what it had not written yet; the next start logs it again.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
FILE_HEADER, RECORD_HEADER = 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Every whole record of a run-*.wandb file."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    for data in _chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        try:
            record.ParseFromString(data)
        except DecodeError:
            return  # torn by a kill
        yield record


def history(path: Path) -> list[dict[str, Any]]:
    """The logged rows: name -> value."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.HasField("history")
    ]


def run_ids(path: Path) -> set[str]:
    return {record.run.run_id for record in records(path) if record.HasField("run")}


def _chunks(raw: bytes) -> Iterator[bytes]:
    at, kept = FILE_HEADER, b""
    while at + RECORD_HEADER <= len(raw):
        if BLOCK - at % BLOCK < RECORD_HEADER:
            at += BLOCK - at % BLOCK  # padding
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, at)
        data = raw[at + RECORD_HEADER : at + RECORD_HEADER + length]
        at += RECORD_HEADER + length
        if kind == FULL:
            yield data
        elif kind in (FIRST, MIDDLE):
            kept += data
        elif kind == LAST:
            yield kept + data
            kept = b""
        else:
            return
