"""What the tests of preprocessing share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import LIMIT

ROOT = Path(__file__).parents[2]


class Reference:
    """Asks the server; starts it at the first question."""

    def __init__(self, folder: Path):
        self.folder, self.process, self.count = folder, None, 0

    def __call__(
        self, tokenizer: Path, texts: list[str], append_eod: bool = True, special: bool = True, **more: Any
    ) -> tuple[bytes, bytes]:
        """The bytes of Megatron's .bin and .idx."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(Path(__file__).with_name("reference_server.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                text=True,
                encoding="utf-8",
            )
        self.count += 1
        prefix = self.folder / f"reference{self.count}"
        request = {
            "tokenizer": str(tokenizer),
            "texts": texts,
            "prefix": str(prefix),
            "append_eod": append_eod,
            "special": special,
            **more,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.answer = json.loads(self.process.stdout.readline())
        files = [Path(f"{prefix}.bin"), Path(f"{prefix}.idx")]
        contents = tuple(file.read_bytes() for file in files)
        for file in files:
            file.unlink()
        return contents

    def close(self) -> None:
        """End the server. A process forked from this one may hold the pipe, so that closing it would not be seen."""
        if self.process is not None:
            self.process.communicate("\n", timeout=LIMIT)


@dataclass
class Done:
    """A finished run of the command."""

    code: int
    out: str
    err: str


def write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({key: text, "id": number}, ensure_ascii=number % 2 == 0) + "\n")
    return path


def pair_bytes(folder: Path, prefix: str, key: str = "text") -> tuple[bytes, bytes]:
    """The bytes of a written pair's .bin and .idx."""
    stem = folder / "preprocessed" / f"{prefix}_{key}_document"
    return Path(f"{stem}.bin").read_bytes(), Path(f"{stem}.idx").read_bytes()


def figures(folder: Path, stem: str) -> dict:
    """What the .json beside a written pair says."""
    return json.loads((folder / "preprocessed" / f"{stem}_text_document.json").read_text())


def nothing_written(folder: Path) -> bool:
    return not folder.exists() or list((folder / "preprocessed").iterdir()) == []
