#!/usr/bin/env python3
"""What hashing a checkpoint costs beside writing it: python benchmarks/checkpoint_hash.py --folder /tmp/hash

Writes a checkpoint of four files, flushed to disk, and hashes it from the page cache as a save does; the same with
blake2b of the standard library for comparison. Medians of five rounds, GB/s.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_workflow.run_dir.checkpoints import Checkpoint, damage_of, files_of, hash_file, write_manifest

FILES, SIZE, ROUNDS = 4, 256 << 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    path = folder / "step_00000001"
    path.mkdir(parents=True)
    content = os.urandom(SIZE)
    rounds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        timed(rounds, "write and fsync", lambda: write(path, content))
        timed(rounds, "xxh3, one thread", lambda: [hash_file(path / name) for name in files_of(path)])
        timed(rounds, "blake2b, four threads", lambda: blake(path))
        timed(rounds, "manifest (xxh3, four threads)", lambda: write_manifest(path))
        timed(rounds, "read back and compare", lambda: damage_of(Checkpoint(path, 1)))
    shutil.rmtree(folder)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {FILES} x {SIZE >> 20} MiB"
    )
    base = statistics.median(rounds["write and fsync"])
    for name, seconds in rounds.items():
        median = statistics.median(seconds)
        print(f"{name:32} {FILES * SIZE / median / 1e9:6.2f} GB/s  {median / base:6.1%} of the write")


def timed(rounds: dict[str, list[float]], name: str, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    rounds.setdefault(name, []).append(time.perf_counter() - began)


def write(path: Path, content: bytes) -> None:
    for number in range(FILES):
        with (path / f"{number}.distcp").open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def blake(path: Path) -> None:
    with ThreadPoolExecutor(FILES) as pool:
        list(pool.map(lambda name: hashlib.blake2b((path / name).read_bytes()).hexdigest(), files_of(path)))


if __name__ == "__main__":
    main()
