"""Preprocessing side by side: this project, Megatron-LM's tools/preprocess_data.py, datatrove's MegatronDocumentTokenizer.

    python benchmarks/preprocess_corpus.py BENCH_DIR
    python benchmarks/preprocess.py BENCH_DIR --part megatron --megatron CLONE
    python benchmarks/preprocess.py BENCH_DIR --part datatrove --datatrove-python PYTHON
    python benchmarks/preprocess.py BENCH_DIR --part scaling
    python benchmarks/preprocess.py BENCH_DIR --part ceiling
    python benchmarks/preprocess.py BENCH_DIR --part memory
    python benchmarks/preprocess.py BENCH_DIR --part files
    python benchmarks/preprocess.py BENCH_DIR --part resume
    python benchmarks/preprocess.py BENCH_DIR --part nodes

CLONE is a clone of NVIDIA/Megatron-LM (checked out at core_v0.15.3 for the dated page) and runs in the Python that runs
this script. It imports `six`, which our environment lacks: pip install --target SIX six, and PYTHONPATH=SIX before the
command. PYTHON is one with datatrove[processing,io]. Every figure is the median of --repeats runs (beside Megatron in
turn; datatrove's of --slow-repeats, because a run takes minutes); CPU seconds are those of all processes (getrusage), peak
memory the largest sum of their proportional set sizes (smaps_rollup, sampled every 20 ms), wall time the whole command.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass
class Run:
    """Medians of one command's runs; `peak_mb` is the largest."""

    wall: float
    cpu: float
    peak_mb: float
    runs: int

    def row(self, name: str, megabytes: float) -> str:
        return f"| {name} | {self.wall:.1f} | {self.cpu:.1f} | {megabytes / self.cpu:.1f} | {self.peak_mb:.0f} | {self.runs} |"


HEADER = "| Tool | wall s | CPU-s | MB a CPU-s | peak MB, all processes | runs |\n|---|---|---|---|---|---|"


def measure(
    command: list[str], repeats: int, env: dict[str, str] | None = None, cwd: Path | None = None, memory: bool = True
) -> Run:
    """Run `command` `repeats` times; leaves with the end of its output when it fails.

    Without `memory` nothing looks at the processes while they run: that takes a tenth of a core.
    """
    walls, cpus, peaks = [], [], []
    for _ in range(repeats):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        peak = [0.0]
        watcher = threading.Thread(target=watch if memory else lambda *_: None, args=(process, peak))
        watcher.start()
        output, _ = process.communicate()
        walls.append(time.perf_counter() - began)
        watcher.join()
        if process.returncode:
            sys.exit(f"{output.decode()[-3000:]}\nexit code {process.returncode} of: {' '.join(command)}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        peaks.append(peak[0])
    return Run(statistics.median(walls), statistics.median(cpus), max(peaks), repeats)


def watch(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    """Keep the largest sum of the proportional set sizes of the process and its descendants, in MB."""
    while process.poll() is None:
        total = sum(pss(pid) for pid in descendants(process.pid))
        peak[0] = max(peak[0], total / 1000)
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    pids = [pid]
    for each in pids:
        for tasks in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                pids += [int(child) for child in tasks.read_text().split()]
            except OSError:
                continue
    return pids


def pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def ours(bench: Path, corpus: Path, workers: int, repeats: int, memory: bool = True, out: str = "ours") -> Run:
    shutil.rmtree(bench / out, ignore_errors=True)  # the first run replaces nothing; with repeats, the others do
    command = [sys.executable, "-m", "nemo_workflow.preprocess", "--tokenizer", str(bench / "tokenizer")]
    command += ["--input", str(corpus), "--output-dir", str(bench / out), "--workers", str(workers), "--overwrite"]
    return measure(command, repeats, {"PYTHONPATH": str(ROOT)}, memory=memory)


def megatron(bench: Path, corpus: Path, clone: Path, workers: int, repeats: int) -> Run:
    command = [sys.executable, "-W", "ignore", "tools/preprocess_data.py", "--input", str(corpus)]
    command += ["--output-prefix", str(bench / "megatron"), "--tokenizer-type", "HuggingFaceTokenizer"]
    command += ["--tokenizer-model", str(bench / "tokenizer"), "--append-eod", "--workers", str(workers)]
    path = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH", "")]))
    return measure(command, repeats, {"PYTHONPATH": path}, cwd=clone)


def part_megatron(args: argparse.Namespace) -> None:
    """The same file through both in turn, --repeats rounds, output compared byte for byte."""
    corpus = args.bench / "corpus.jsonl"
    megabytes = corpus.stat().st_size / 1e6
    clone = args.megatron.resolve()
    tools: dict[str, Callable[[], Run]] = {
        "this project, 1 worker": lambda: ours(args.bench, corpus, 1, 1),
        "this project, 2 workers": lambda: ours(args.bench, corpus, 2, 1),
        "Megatron-LM tools/preprocess_data.py, 2 workers": lambda: megatron(args.bench, corpus, clone, 2, 1),
    }
    rounds: list[list[Run]] = []
    for number in range(args.repeats):
        rounds.append([run() for run in tools.values()])
        print(f"round {number + 1}: {', '.join(f'{run.cpu:.1f}' for run in rounds[-1])} CPU-s", flush=True)
    rows = [middle(list(runs)) for runs in zip(*rounds, strict=True)]
    print(f"{megabytes:.1f} MB, load average {os.getloadavg()[0]:.2f}\n\n{HEADER}")
    print("\n".join(run.row(name, megabytes) for name, run in zip(tools, rows, strict=True)))
    same = all(
        filecmp.cmp(
            args.bench / f"megatron_text_document{ending}",
            args.bench / "ours" / "preprocessed" / f"corpus_text_document{ending}",
            shallow=False,
        )
        for ending in (".bin", ".idx")
    )
    print(f"\noutput byte-identical: {same}")
    ratios = ", ".join(f"{theirs.cpu / mine.cpu:.1f}" for _, mine, theirs in rounds)
    print(f"CPU-seconds: {rows[2].cpu / rows[1].cpu:.1f} times fewer (2 workers; a round each: {ratios})")


def middle(runs: list[Run]) -> Run:
    """Medians of runs of one tool, and the largest peak."""
    return Run(
        statistics.median(run.wall for run in runs),
        statistics.median(run.cpu for run in runs),
        max(run.peak_mb for run in runs),
        len(runs),
    )


DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
folder, name, tokenizer, out = sys.argv[1:]
if __name__ == "__main__":
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(folder, glob_pattern=name),
            MegatronDocumentTokenizer(output_folder=out, tokenizer_name_or_path=tokenizer, eos_token="<|endoftext|>"),
        ],
        tasks=1, logging_dir=out + "/logs", skip_completed=False,
    ).run()
"""


def part_datatrove(args: argparse.Namespace) -> None:
    """A slice of the corpus: datatrove takes a second of CPU a MB."""
    piece = args.bench / "slice.jsonl"
    with (args.bench / "corpus.jsonl").open("rb") as source, piece.open("wb") as out:
        while out.tell() < args.slice_megabytes * 1e6:
            out.write(source.readline())
    megabytes = piece.stat().st_size / 1e6
    command = [str(args.datatrove_python), "-c", DATATROVE, str(args.bench), piece.name]
    command += [str(args.bench / "tokenizer" / "tokenizer.json"), str(args.bench / "datatrove")]
    theirs = measure(command, args.slow_repeats)
    mine = ours(args.bench, piece, 1, args.repeats)
    print(f"{megabytes:.1f} MB, load average {os.getloadavg()[0]:.2f}\n\n{HEADER}")
    print(mine.row("this project, 1 worker", megabytes))
    print(theirs.row("datatrove MegatronDocumentTokenizer, 1 task", megabytes))
    print(f"\nCPU-seconds: {theirs.cpu / mine.cpu:.1f} times fewer; wall: {theirs.wall / mine.wall:.1f} times less")


def part_scaling(args: argparse.Namespace) -> None:
    """1 GB through one worker and through two, in turn, each time into an empty folder; memory is not watched."""
    big = repeated(args.bench, 1.0)
    megabytes = big.stat().st_size / 1e6
    runs: dict[int, list[Run]] = {1: [], 2: []}
    for _ in range(args.repeats):
        for workers, so_far in runs.items():
            so_far.append(ours(args.bench, big, workers, 1, memory=False))
    print(f"{megabytes:.1f} MB, load average {os.getloadavg()[0]:.2f}\n")
    print("| Workers | wall s (median; all) | CPU-s |\n|---|---|---|")
    for workers, each in runs.items():
        walls = ", ".join(f"{run.wall:.1f}" for run in each)
        cpu = statistics.median(run.cpu for run in each)
        print(f"| {workers} | {statistics.median(run.wall for run in each):.2f} ({walls}) | {cpu:.1f} |")
    one, two = (statistics.median(run.wall for run in each) for each in runs.values())
    print(f"\ntwo workers are {one / two:.2f} times as fast as one")
    big.unlink()


def part_ceiling(args: argparse.Namespace) -> None:
    """What the machine allows: commands with one worker and 0.6 GB each, alone and two side by side."""
    half = repeated(args.bench, 0.6)

    def run(out: str) -> float:
        return ours(args.bench, half, 1, 1, memory=False, out=out).wall

    alone: list[float] = []
    beside: list[float] = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(args.repeats):
            alone.append(run("ours"))
            beside += pool.map(run, ("ours", "beside"))
    for name, walls in (("alone", alone), ("beside another", beside)):
        print(f"{name}: {statistics.median(walls):.2f} s ({', '.join(f'{wall:.1f}' for wall in walls)})")
    print(f"two at once do {2 * statistics.median(alone) / statistics.median(beside):.2f} times the work of one")
    half.unlink()
    shutil.rmtree(args.bench / "beside")


def part_memory(args: argparse.Namespace) -> None:
    """3 GB of documents, and one document of 200 MB."""
    print(HEADER)
    big = repeated(args.bench, 3.0)
    print(ours(args.bench, big, 2, 1).row("3 GB, 2 workers", big.stat().st_size / 1e6))
    big.unlink()
    giant = one_long_document(args.bench, 200)
    print(ours(args.bench, giant, 2, 1).row("a document of 200 MB, 2 workers", giant.stat().st_size / 1e6))
    giant.unlink()


def part_files(args: argparse.Namespace) -> None:
    """The corpus as one file and as 10,000, a pair each and joined; then the same commands again, and with one file more."""
    corpus, tree = args.bench / "corpus.jsonl", args.bench / "files"
    lines = corpus.read_bytes().splitlines(keepends=True)
    shutil.rmtree(tree, ignore_errors=True)
    for number in range(10_000):
        path = tree / f"{number % 100:02d}" / f"part-{number:05d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(lines[number::10_000]) or lines[number % len(lines)])
    megabytes = sum(path.stat().st_size for path in tree.rglob("*.jsonl")) / 1e6
    print(HEADER)
    print(ours(args.bench, corpus, 2, 1).row("one file", corpus.stat().st_size / 1e6))
    for name, more in (("10,000 files, a pair each", []), ("10,000 files, --join", ["--join"])):
        shutil.rmtree(args.bench / "many", ignore_errors=True)
        command = [sys.executable, "-m", "nemo_workflow.preprocess", "--tokenizer", str(args.bench / "tokenizer")]
        command += ["--input-dir", str(tree), "--output-dir", str(args.bench / "many"), "--workers", "2", *more]
        environment = {"PYTHONPATH": str(ROOT)}
        print(measure(command, 1, environment).row(name, megabytes), flush=True)
        print(measure(command, 1, environment).row(f"{name}, again", megabytes), flush=True)
        extra = tree / "00" / "part-00000a.jsonl"
        extra.write_bytes(lines[0])
        print(measure(command, 1, environment).row(f"{name}, with one file more", megabytes), flush=True)
        extra.unlink()
    shutil.rmtree(args.bench / "many")
    shutil.rmtree(tree)


def part_resume(args: argparse.Namespace) -> None:
    """1 GB in one run, and killed at about half and begun again: CPU-seconds of both runs against those of the one."""
    big = repeated(args.bench, 1.0)
    whole = ours(args.bench, big, 2, 1, memory=False)
    out = args.bench / "resumed"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "nemo_workflow.preprocess", "--tokenizer", str(args.bench / "tokenizer")]
    command += ["--input", str(big), "--output-dir", str(out), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    written = args.bench / "ours" / "preprocessed" / f"{big.stem}_text_document.bin"
    half = written.stat().st_size // 2
    while max((path.stat().st_size for path in out.rglob("*.bin")), default=0) < half and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = [json.loads(line) for path in out.rglob("journal.jsonl") for line in path.read_text().splitlines()]
    kept = max((line["keys"][0][0] for line in done if "keys" in line), default=0)
    reached = max((path.stat().st_size for path in out.rglob("*.bin")), default=0)
    rest = measure(command, 1, environment, memory=False)
    same = filecmp.cmp(written, out / "preprocessed" / written.name, shallow=False)
    print(
        f"one run: {whole.wall:.1f} s, {whole.cpu:.1f} CPU-s; the run that went on: {rest.wall:.1f} s, {rest.cpu:.1f} CPU-s"
    )
    print(f"killed with {reached / 1e6:.1f} MB of tokens in the file, {kept / 1e6:.1f} MB of them kept:")
    print(f"{(reached - kept) / written.stat().st_size:.2%} of the work done twice; identical: {same}")
    big.unlink()
    shutil.rmtree(out)


def part_nodes(args: argparse.Namespace) -> None:
    """The corpus by two nodes of a Slurm that is started here (root, on loopback), a worker each, and by one machine.

    Both nodes are this machine: the row shows what sharing out and joining cost, not what two machines gain.
    """
    sys.path.insert(0, str(ROOT))
    from tests.e2e.slurm.daemons import Daemons

    big = repeated(args.bench, 0.36)
    one = ours(args.bench, big, 2, args.repeats, memory=False)
    slurm = Daemons()
    command = [sys.executable, "-m", "nemo_workflow.preprocess", "--tokenizer", str(args.bench / "tokenizer")]
    command += ["--input", str(big), "--output-dir", str(args.bench / "nodes"), "--workers", "1", "--overwrite"]
    command += ["--executor", "slurm", "--no-container", "-A", "a1", "-P", "batch", "-N", "2", "--wait"]
    try:
        slurm.start()
        environment = {"PYTHONPATH": str(ROOT), "SLURM_CONF": str(slurm.conf)}
        two = measure(command, args.repeats, environment, memory=False)
        times = job_seconds(slurm, args.repeats)
    finally:
        slurm.stop()
    name = f"{big.stem}_text_document.bin"
    written = [args.bench / out / "preprocessed" / name for out in ("ours", "nodes")]
    print(f"{big.stat().st_size / 1e6:.1f} MB, load average {os.getloadavg()[0]:.2f}")
    print(f"one machine, 2 workers: {one.wall:.1f} s; two nodes, a worker each: {two.wall:.1f} s with submission,")
    print(f"of them the job {', '.join(times)} s; identical: {filecmp.cmp(*written, shallow=False)}")
    big.unlink()
    shutil.rmtree(args.bench / "nodes")


def job_seconds(slurm: Any, count: int) -> list[str]:
    """How long the jobs ran. Slurm's controller knows it at once, for 300 s; its data base only some seconds after the end."""
    for _ in range(30):
        jobs = slurm.run("sacct", "-X", "-n", "-P", "-S", "now-1hour", "-o", "State,ElapsedRaw").split()
        done = [job.partition("|")[2] for job in jobs if job.startswith("COMPLETED|")]
        if len(done) >= count:
            return done
        time.sleep(1)
    sys.exit(f"the {count} jobs do not stand in sacct's list as completed: {jobs}")


def repeated(bench: Path, gigabytes: float) -> Path:
    """The corpus, again and again."""
    path = bench / f"repeated{gigabytes:g}.jsonl"
    data = (bench / "corpus.jsonl").read_bytes()
    with path.open("wb") as out:
        while out.tell() < gigabytes * 1e9:
            out.write(data)
    return path


def one_long_document(bench: Path, megabytes: int) -> Path:
    """Texts of the corpus as one document, some of it written in escapes, with an emoji in it."""
    rng, path = random.Random(3), bench / "giant.jsonl"
    with (bench / "corpus.jsonl").open(encoding="utf-8") as source, path.open("w", encoding="utf-8") as out:
        texts = [json.loads(line)["text"] for _, line in zip(range(3000), source, strict=False)]
        out.write('{"text": "\U0001f680 ')
        while out.tell() < megabytes * 1e6:
            out.write(json.dumps(rng.choice(texts), ensure_ascii=rng.random() < 0.3)[1:-1] + "\\n")
        out.write('"}\n')
    return path


PARTS = {
    "megatron": part_megatron,
    "datatrove": part_datatrove,
    "scaling": part_scaling,
    "ceiling": part_ceiling,
    "memory": part_memory,
    "files": part_files,
    "resume": part_resume,
    "nodes": part_nodes,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", type=Path, help="folder made by preprocess_corpus.py")
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--megatron", type=Path, metavar="CLONE")
    parser.add_argument("--datatrove-python", type=Path, metavar="PYTHON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slow-repeats", type=int, default=1)
    parser.add_argument("--slice-megabytes", type=float, default=120)
    args = parser.parse_args()
    args.bench = args.bench.resolve()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    PARTS[args.part](args)


if __name__ == "__main__":
    main()
