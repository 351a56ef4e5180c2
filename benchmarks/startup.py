"""How long help, lists, plans and refusals take, Python's own start included: `python benchmarks/startup.py`.

Makes its data (a pair of 300,000 tokens, a tokenizer.json of 128,000 entries) in a temporary folder. Prints, for each
command, the median of wall time and of CPU time (user + system) over the repetitions, beside a bare `python -c pass`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPETITIONS = 15


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    ).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = make_inputs(folder)
        script = str(ROOT / "pretrain_llm.py")
        rows = [
            ("python -c pass", ["-c", "pass"]),
            ("--help", [script, "--help"]),
            ("--list-models", [script, "--list-models"]),
            ("a missing flag", [script]),
            (
                "several problems",
                [script, *flags, "--fp8", "-SP", "-E", "a/b", "--warmup-steps", "9999", "--lr", "1e-9"],
            ),
            ("--dry-run", [script, *flags, "--dry-run"]),
            ("--dry-run=json, from --config", [script, "--config", str(folder / "run.yaml"), "--dry-run=json"]),
        ]
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        )
        print("| Command | Wall, s | CPU, s |\n|---|---|---|")
        times: dict[str, list[tuple[float, float]]] = {label: [] for label, _ in rows}
        for _ in range(REPETITIONS):  # in turn, so that a busy moment hits all of them
            for label, words in rows:
                times[label].append(measure(words))
        for label, found in times.items():
            wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"| `{label}` | {wall:.3f} | {cpu:.3f} |")


def measure(words: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def make_inputs(folder: Path) -> list[str]:
    """A dataset, a tokenizer of Llama-3's size and a config; returns the flags that use them."""
    lengths, prefix = [300] * 1000, folder / "data" / "d_text_document"
    prefix.parent.mkdir()
    Path(f"{prefix}.bin").write_bytes(array("i", [7] * sum(lengths)).tobytes())
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 4, len(lengths), len(lengths) + 1)
    pointers = array("q", range(0, 1200 * len(lengths), 1200))
    starts = array("q", range(len(lengths) + 1))
    Path(f"{prefix}.idx").write_bytes(header + array("i", lengths).tobytes() + pointers.tobytes() + starts.tobytes())
    words = {f"token-number-{number}": number for number in range(128_000)}
    merges = [f"merge-{number} of-{number}" for number in range(128_000)]
    tokenizer = {"model": {"type": "BPE", "vocab": words, "merges": merges}, "added_tokens": []}
    (folder / "hf").mkdir()
    (folder / "hf" / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "hf" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "token-number-7"}))
    flags = {
        "model-name": "llama32_1b",
        "hf-model-id": str(folder / "hf"),
        "dataset-dir": str(prefix.parent),
        "global-batch-size": "8",
        "seq-length": "1024",
        "accelerator": "cpu",
    }
    (folder / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in flags.items()))
    return [f"--{name}={value}" for name, value in flags.items()]


if __name__ == "__main__":
    main()
