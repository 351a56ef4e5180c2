"""Time and peak memory of both conversions, beside NeMo's own, on a random model of Llama-3.2-1B's shape; and a large one under a limit.

    python benchmarks/conversion.py WORK_DIR [--repeats 3] [--part shape|limit|all] [--limit-gib 6]

`shape` writes a random bf16 model of 2.5 GB and runs, each in a process of its own: our import and export, with and without
verification, and NeMo's `import_ckpt` and `export_ckpt` in the same run. Wall time is the whole process, imports included;
peak memory is the sum over the command's processes (resident sets, every 20 ms; pages that they share count twice), or the
kernel's ru_maxrss if that is more. The runs of a round follow each other, so that what else the machine does meets all alike.
NeMo's time without imports is printed beside it.
`limit` writes a model of 9 GB in 20 layers and converts it both ways with RLIMIT_DATA (private memory) below its size, then
lets NeMo try the same. WORK_DIR needs 12 GB for `shape`, 40 GB for `limit`; it is removed afterwards, unless --keep.
Prints a JSON line a run and a table of medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ONE_B: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                     "rope_type": "llama3"},
}  # fmt: skip
NINE_GB: dict[str, Any] = {
    **ONE_B, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 20, "head_dim": 128, "vocab_size": 32000,
    "tie_word_embeddings": False,
}  # fmt: skip
NEMO = """
import sys, time
from nemo_workflow.backends import cpu as cpu_backend
cpu_backend.install()
from pathlib import Path
from nemo.collections import llm
from nemo.collections.llm.gpt.model.llama import LlamaModel
what, source, output = sys.argv[1:]
start = time.monotonic()
if what == "import":
    address = "hf://" + source
    llm.import_ckpt(LlamaModel(LlamaModel.importer(address).config), address, output_path=output)
else:
    llm.export_ckpt(source, "hf", output_path=output)
print("SECONDS", time.monotonic() - start)
"""


def make(folder: Path, shape: dict[str, Any]) -> int:
    """Write a random bf16 Llama of `shape`, a tensor at a time; returns its bytes."""
    import torch

    sys.path.insert(0, str(ROOT / "tests" / "conversion"))
    from tiny_models import save_tokenizer

    from nemo_workflow.conversion import config_fields
    from nemo_workflow.conversion.hf_folder import Planned, write_tensors
    from nemo_workflow.models.families import by_model_type
    from nemo_workflow.models.families.mapping import items

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        **shape,
    }
    family = by_model_type("llama")
    assert family is not None
    full = config_fields.complete(config, family)
    hidden, ffn, vocab = full["hidden_size"], full["intermediate_size"], full["vocab_size"]
    rows = {"q": full["num_attention_heads"] * full["head_dim"], "k": full["num_key_value_heads"] * full["head_dim"]}
    sizes = {
        "embed_tokens": (vocab, hidden), "lm_head": (vocab, hidden), "q_proj": (rows["q"], hidden), "k_proj": (rows["k"], hidden),
        "v_proj": (rows["k"], hidden), "o_proj": (hidden, rows["q"]), "gate_proj": (ffn, hidden), "up_proj": (ffn, hidden),
        "down_proj": (hidden, ffn),
    }  # fmt: skip
    names = [name for item in items(family, full) for name in item.hf]
    planned = [Planned(name, "bfloat16", sizes.get(name.split(".")[-2], (hidden,))) for name in names]

    def values() -> Iterator[tuple[str, torch.Tensor]]:
        torch.manual_seed(0)
        for item in planned:
            tensor = torch.empty(item.shape, dtype=torch.bfloat16).normal_(std=0.02)
            yield item.name, tensor + 1 if len(item.shape) == 1 else tensor

    if not (folder / "config.json").exists():
        folder.mkdir(parents=True)
        write_tensors(folder, planned, values())
        save_tokenizer(folder)
        (folder / "generation_config.json").write_text("{}")
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    return sum(item.nbytes for item in planned)


def resident(pid: int) -> int:
    """Bytes resident in a process and its children; 0 once it has ended."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return pages * resource.getpagesize() + sum(resident(int(child)) for child in children)
    return 0


def watch(pid: int, ended: threading.Event, peak: list[int]) -> None:
    while not ended.wait(0.02):
        peak[0] = max(peak[0], resident(pid))


def run(command: list[str], limit: int | None = None) -> dict[str, Any]:
    """Wall seconds, peak bytes and exit code of one process."""

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT, preexec_fn=limited,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    ended, peak = threading.Event(), [0]
    watcher = threading.Thread(target=watch, args=(process.pid, ended, peak))
    watcher.start()
    text = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    result = {
        "seconds": time.monotonic() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": max(usage.ru_maxrss * 1024, peak[0]),
        "code": process.returncode,
    }
    inner = [line.split()[1] for line in text.splitlines() if line.startswith("SECONDS")]
    if inner:
        result["without_imports"] = float(inner[0])
    if process.returncode:
        result["end"] = text[-300:]
    return result


def commands(work: Path) -> dict[str, tuple[list[str], Path]]:
    """name -> (command, what it writes), in an order in which each finds its input."""
    python, scripts = sys.executable, ROOT / "ckpt_conversion"
    forth, back = str(scripts / "convert_from_hf_to_nemo2.py"), str(scripts / "convert_from_nemo2_to_hf.py")

    def ours(script: str, source: str, output: str, *more: str) -> tuple[list[str], Path]:
        return [
            python,
            script,
            "--source",
            str(work / source),
            "--output-path",
            str(work / output),
            *more,
        ], work / output

    def nemos(what: str, source: str, output: str) -> tuple[list[str], Path]:
        return [python, "-c", NEMO, what, str(work / source), str(work / output)], work / output

    return {
        "import, verified": ours(forth, "hf", "nemo"),
        "export, verified": ours(back, "nemo", "back"),
        "import, --no-verify": ours(forth, "hf", "nemo2", "--no-verify"),
        "export, --no-verify": ours(back, "nemo", "back2", "--no-verify"),
        "NeMo's import_ckpt": nemos("import", "hf", "nemo3"),
        "NeMo's export_ckpt": nemos("export", "nemo3", "back3"),
    }


def measure(
    work: Path, repeats: int, limit: int | None, names: tuple[str, ...] = ()
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(repeats):
        for name, (command, output) in commands(work).items():
            if names and name not in names:
                continue
            shutil.rmtree(output, ignore_errors=True)
            result = run(command, limit)
            print(json.dumps({"run": name, **result}), flush=True)
            found.setdefault(name, []).append(result)
    return found


def table(found: dict[str, list[dict[str, Any]]], nbytes: int) -> None:
    print("| | wall s | CPU s | without imports s | peak GB | peak / model | exit |\n|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        seconds, peak = statistics.median(r["seconds"] for r in runs), statistics.median(r["peak"] for r in runs)
        inner = [r["without_imports"] for r in runs if "without_imports" in r]
        shown = f"{statistics.median(inner):.1f}" if inner else ""
        codes = ", ".join(sorted({str(r["code"]) for r in runs}))
        cpu = statistics.median(r["cpu"] for r in runs)
        print(f"| {name} | {seconds:.1f} | {cpu:.1f} | {shown} | {peak / 1e9:.2f} | {peak / nbytes:.2f} | {codes} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", choices=["shape", "limit", "all"], default="all")
    parser.add_argument("--keep", action="store_true", help="leave WORK_DIR there; a model found in it is used again")
    parser.add_argument("--limit-gib", type=float, default=6.0)
    args = parser.parse_args()
    for part, shape in (("shape", ONE_B), ("limit", NINE_GB)):
        if args.part not in (part, "all"):
            continue
        work = args.work.absolute() / part
        nbytes = make(work / "hf", shape)
        print(f"{part}: {nbytes / 1e9:.2f} GB")
        if part == "shape":
            table(measure(work, args.repeats, None), nbytes)
        else:
            limit = int(args.limit_gib * 2**30)
            print(f"RLIMIT_DATA {limit / 1e9:.2f} GB, {limit / nbytes:.2f} of the model")
            names = ("import, verified", "export, verified", "NeMo's import_ckpt")
            table(measure(work, args.repeats, limit, names), nbytes)
        if not args.keep:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
