#!/usr/bin/env python3
"""What the GPU benchmarks train on: Python sources, and a tokenizer of Llama 3's size (128,256 entries) trained on them.

python benchmarks/gpu/make_data.py FOLDER          FOLDER/tokenizer and FOLDER/dataset; minutes, 20 MB, 4 MB as .tar.xz
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tools import demo  # noqa: E402

VOCABULARY = 128_256


def texts(limit: int) -> Iterator[str]:
    """Sources of the standard library and of the installed packages, `limit` characters at most."""
    size = 0
    for place in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(place)).rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if 400 <= len(text) <= 200_000:
                size += len(text)
                if size > limit:
                    return
                yield text


def write(path: Path, limit: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for text in texts(limit):
            stream.write(json.dumps({"text": text}) + "\n")
    return path


def fill(tokenizer: Path, vocabulary: int) -> None:
    """Reserved entries up to `vocabulary`, where the text had not enough pairs to merge."""
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    size = len(content["model"]["vocab"])
    for number in range(size, vocabulary):
        entry = {"id": number, "content": f"<|reserved_{number}|>", "special": True, "normalized": False}
        content["added_tokens"].append({**entry, "single_word": False, "lstrip": False, "rstrip": False})
    (tokenizer / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--tokenizer-bytes", type=int, default=60_000_000, help="of text to train the tokenizer on")
    parser.add_argument("--bytes", type=int, default=18_000_000, help="of text in the dataset")
    options = parser.parse_args()
    folder = options.folder.absolute()
    tokenizer = folder / "tokenizer"
    demo.train_tokenizer(write(folder / "all" / "python.jsonl", options.tokenizer_bytes), tokenizer, options.vocabulary)
    fill(tokenizer, options.vocabulary)
    write(folder / "text" / "code.jsonl", options.bytes)
    command = ["bash", "preprocess_data.sh", "--hf-tokenizer", tokenizer, "--data-prefix", "code"]
    command += ["--input-dir", folder / "text", "--output-dir", folder / "dataset"]
    subprocess.run([str(word) for word in command], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    main()
