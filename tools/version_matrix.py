"""Try the project with the library versions of NVIDIA's containers, without a container: `make matrix`.

Each stack is NeMo, megatron-core and nemo_run of a container from the package index, laid over the environment's own
packages; torch and Transformer Engine stay what they are, and everything runs on CPU ranks. Results are written into
docs/versions.md, between the marks. Stacks are kept in a cache folder ($OVERLAYS, else below ~/.cache).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow import REPOSITORY
from nemo_workflow.backends.patching import ANY_VERSION
from nemo_workflow.models import catalog
from nemo_workflow.run_dir import metrics
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Failure, run_command
from nemo_workflow.utils.files import written_aside

PAGE = REPOSITORY / "docs" / "versions.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
STEPS = 6


@dataclass(frozen=True)
class Stack:
    """A container's tag, and the released versions that come nearest to what it holds."""

    tag: str
    nemo: str
    megatron: str
    nemo_run: str

    def overlay(self) -> Path:
        """The folder to put first on Python's path; made at the first use. Raises Failure where pip can't."""
        cache = Path(os.environ.get("OVERLAYS") or Path.home() / ".cache" / "nemo-workflow-overlays")
        place = cache / f"{self.nemo}-{self.megatron}-{self.nemo_run}"
        if place.is_dir():
            return place
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            packages = [f"nemo_toolkit=={self.nemo}", f"megatron-core=={self.megatron}", f"nemo_run=={self.nemo_run}"]
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]
            done = subprocess.run(
                [*command, f"{aside}/{place.name}", *packages], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise Failure(f"pip could not get {', '.join(packages)}: {done.stderr.strip()[-300:]}")
            if not place.exists():  # another process may have made it meanwhile
                Path(aside, place.name).rename(place)
        return place

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of this Python with the stack on its path; raises Failure with the end of its output where it fails."""
        environment = os.environ | {"PYTHONPATH": str(self.overlay()), ANY_VERSION: "1"} | more
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Failure(f"NeMo {self.nemo}: {command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return done


STACKS = (
    Stack("25.09", "2.5.3", "0.14.0", "0.6.0"),
    Stack("25.11", "2.6.0", "0.15.0", "0.7.0"),
    Stack("26.02", "2.7.0", "0.16.0", "0.8.0"),
)


def recipes(stack: Stack) -> dict[str, Any]:
    """What the stack makes of every recipe of the catalogue: how many build, which don't and why, which are other models."""
    return dict(json.loads(stack.run("-m", "tools.version_matrix", "--inside").stdout.splitlines()[-1]))


def slurm_script(stack: Stack, corpus: Path, folder: Path) -> str:
    """The job script that the stack's nemo_run writes."""
    flags = [
        *_flags(corpus, folder, "slurm"),
        "--executor",
        "slurm",
        "-A",
        "a",
        "-P",
        "p",
        "--num-gpus",
        "2",
        "--max-steps",
        "6",
        "--dry-run",
    ]
    text = stack.run(REPOSITORY / "pretrain_llm.py", *flags).stdout
    return text.partition("Job script:\n")[2]


def train(stack: Stack, corpus: Path, folder: Path, stops: tuple[int, ...] = (STEPS // 2,)) -> dict[str, Any]:
    """Six steps at TP 2, two more from there at PP 2, the export of the end: losses by step, steps resumed after, the report.

    The six are stopped after each of `stops`, and gone on with.
    """
    script = REPOSITORY / "pretrain_llm.py"
    flags = [*_flags(corpus, folder, "run"), "--accelerator", "cpu", "--num-gpus", "2", "--save-every", "3"]
    for steps in (*stops, STEPS):
        stack.run(script, *flags, "--max-steps", str(steps), "-TP", "2")
    stack.run(script, *flags, "--max-steps", str(STEPS + 2), "-PP", "2")
    events = metrics.read(folder / "run" / metrics.FILE)
    newest = max((folder / "run" / "checkpoints").glob("step_*"))
    stack.run(
        REPOSITORY / "ckpt_conversion" / "convert_from_nemo2_to_hf.py",
        "--source",
        newest,
        "--output-path",
        folder / "hf",
    )
    report = json.loads((folder / "hf" / "conversion_report.json").read_text(encoding="utf-8"))
    return {
        "losses": {e["step"]: e["loss"] for e in events if e["event"] == "step"},
        "resumed_after": [e["step"] for e in events if e["event"] == "start"],
        "export": report,
        "versions": json.loads(
            max((folder / "run").glob("attempts/*/" + metrics.RANK_VERSIONS)).read_text(encoding="utf-8")
        ),
    }


def _flags(corpus: Path, folder: Path, name: str) -> list[str]:
    return [
        "--model-name", "llama_tiny", "--hf-model-id", str(corpus / "tokenizer"), "--dataset-dir", str(corpus / "dataset"),
        "--output-dir", str(folder), "--experiment", name, "--global-batch-size", "4", "--micro-batch-size", "2",
        "--seq-length", "64", "--val-check-interval", "3", "--log-every", "1",
    ]  # fmt: skip


def inside() -> dict[str, Any]:
    """What `recipes` returns, asked in a process that imports the stack."""
    from nemo_workflow.backends import memory_pool

    memory_pool.leave_out()
    from nemo_workflow.training import recipe, recipe_check
    from nemo_workflow.utils.libraries import version

    found: dict[str, Any] = {"builds": [], "missing": [], "fails": {}, "other": {}, "nemo": version("nemo_toolkit")}
    for name in catalog.load():
        try:
            differing = recipe_check.differences(name, recipe.stock_recipe(name))
        except ModuleNotFoundError:
            found["missing"].append(name)
        except Exception as error:  # noqa: BLE001 - each library fails in its own way without Transformer Engine
            found["fails"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            found["builds"].append(name)
            if differing:
                found["other"][name] = differing
    return found


def row(stack: Stack, built: dict[str, Any], trained: dict[str, Any]) -> str:
    """A stack's line of the page."""
    other = [
        f"`{name}` ({', '.join(f'{field} {there}' for field, (_, there) in fields.items())})"
        for name, fields in built["other"].items()
    ]
    gone = [f"`{name}`" for name in built["missing"]]
    remarks = [f"lacks {', '.join(gone)}"] if gone else []
    remarks += [f"needs Transformer Engine: {len(built['fails'])}"] if built["fails"] else []
    remarks += [f"other models: {', '.join(other)}"] if other else []
    losses = trained["losses"]
    cells = (
        stack.tag, stack.nemo, stack.megatron, stack.nemo_run,
        f"{len(built['builds'])} of {len(catalog.load())}{'; ' if remarks else ''}{'; '.join(remarks)}", "written",
        f"{losses[1]:.4f} -> {losses[STEPS]:.4f}", f"{losses[STEPS + 2]:.4f}",
        f"{trained['export']['tensors']['compared']} tensors, bit for bit" if trained["export"].get("verified") else "differs",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| Tag imitated | NeMo | megatron-core | nemo_run | recipes that build | Slurm job script | loss of 6 CPU steps at TP 2, stopped after 3"
    " | loss after 2 more at PP 2 | export |\n|---|---|---|---|---|---|---|---|---|"
)


def write_page(rows: list[str], page: Path = PAGE) -> None:
    """Put the table between the page's marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with written_aside(page) as stream:
        stream.write("\n".join([before + BEGIN, HEAD, *rows, END]) + after)


def main() -> None:
    """Try every stack and write the page; `--inside` is what it starts itself in the stack's Python."""
    parser = Parser(
        prog="python -m tools.version_matrix", description="Try the versions of NVIDIA's containers (minutes)."
    )
    parser.add_argument("--inside", action="store_true", help="print what this Python's own NeMo makes of the recipes")
    if parser.parse_args().inside:
        print(json.dumps(inside()))
        return
    from tools import demo

    rows = []
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "corpus"
        demo.write_corpus(corpus / "data" / "text.jsonl", limit=500_000)
        demo.train_tokenizer(corpus / "data" / "text.jsonl", corpus / "tokenizer", vocabulary=512)
        words: list[str | Path] = [
            "--hf-tokenizer",
            corpus / "tokenizer",
            "--data-prefix",
            "text",
            "--input-dir",
            corpus / "data",
        ]
        subprocess.run(
            ["bash", "preprocess_data.sh", *words, "--output-dir", corpus / "dataset"], cwd=REPOSITORY, check=True
        )
        for stack in STACKS:
            print(f"{stack.tag}: NeMo {stack.nemo}", file=sys.stderr)
            folder = Path(place) / stack.tag
            built = recipes(stack)
            slurm_script(stack, corpus, folder)
            rows.append(row(stack, built, train(stack, corpus, folder)))
            shutil.rmtree(folder)
    write_page(rows)
    print("\n".join([HEAD, *rows]))


if __name__ == "__main__":
    run_command(main)
