"""Tokenizers trained once, Megatron's reference in one process, and a way to run the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tokenizer_makers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tokenizers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of tokenizer: NAME has a small vocabulary (uint16), NAME-large one of 70,000 (int32)."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in tokenizer_makers.MAKERS.items():
        made = make()
        tokenizer_makers.save(made, folder / name)
        tokenizer_makers.save(made, folder / f"{name}-large", pad_to=70_000)
    (folder / "slow").mkdir()  # a class that exists in Python only and needs no files
    (folder / "slow" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "extra_ids": 0}'
    )
    return folder


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


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    server = Reference(tmp_path_factory.mktemp("reference"))
    yield server
    if server.process is not None:
        server.process.stdin.close()
        server.process.wait(20)


@dataclass
class Done:
    """A finished run of the command."""

    code: int
    out: str
    err: str


@pytest.fixture
def preprocess() -> Callable[..., Done]:
    """Run `python -m nemo_workflow.preprocess` as a user does."""

    def run(*arguments: object, **kwargs: Any) -> Done:
        command = [sys.executable, "-m", "nemo_workflow.preprocess", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)} | kwargs.pop("env", {})
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=False, **kwargs
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


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
