"""The commands on the pages: trainings are planned, `runs` is run on a generated run; the rest is accounted for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.look import fake_runs
from tests.plan.conftest import write_pair, write_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ("quickstart", "layout", "runs", "troubleshooting", "known_issues", "versions", "architecture")
NOT_RUN = {
    "make demo": "tests/pipeline/test_demo.py runs the demo",
    "docker run": "needs NVIDIA's container",
    "python ckpt_conversion": "tests/pipeline/test_readme.py runs it",
    "python -m nemo_workflow.sample": "tests/pipeline/test_demo.py runs it",
    "tensorboard": "serves until it is stopped",
}


def commands() -> list[tuple[str, str]]:
    """(page, command) of every bash block, continued lines joined."""
    found = []
    for page in PAGES:
        text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found += [(page, line) for line in block.replace("\\\n", " ").strip().splitlines()]
    return found


COMMANDS = commands()
PLANNED = [entry for entry in COMMANDS if entry[1].startswith("python pretrain_llm.py")]
RUN = [entry for entry in COMMANDS if entry[1].startswith("python -m nemo_workflow.runs")]


def test_every_command_is_accounted_for() -> None:
    rest = [entry for entry in COMMANDS if entry not in PLANNED + RUN]
    assert [entry for entry in rest if not entry[1].startswith(tuple(NOT_RUN))] == []
    assert all(any(command.startswith(start) for _, command in rest) for start in NOT_RUN)
    assert len(PLANNED) == 5 and len(RUN) == 6


def shell(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(place / "hub"), "PROCESSED_DATASET_DIR": str(place / "data"), "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-euc", command], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages suppose it: data, the demo's output, two runs."""
    root = tmp_path_factory.mktemp("pages")
    write_pair(root / "data" / "preprocessed" / "wiki_text_document", [3000] * 4000, "int32")
    write_pair(root / "demo_output" / "dataset" / "preprocessed" / "stdlib_text_document", [300] * 1000)
    write_tokenizer(root / "demo_output" / "tokenizer")
    for name in ("my_run", "other_run"):
        fake_runs.write_run(root / "nemo_experiments" / name)
    (root / "pretrain_llm.py").symlink_to(REPOSITORY / "pretrain_llm.py")
    return root


@pytest.mark.parametrize(("page", "command"), PLANNED)
def test_trainings_are_accepted(place: Path, page: str, command: str) -> None:
    accelerator = "" if "--accelerator" in command or "slurm" in command else " --accelerator gpu"
    if "slurm" in command:
        command = command.replace("--executor slurm", "--executor local --accelerator gpu -N 1").replace("-N 2", "")
        command = re.sub(r"-A ACCOUNT|-P PARTITION|--time \S+|--requeue \d+", "", command)
    done = shell(f"{command}{accelerator} --dry-run", place)
    assert done.returncode == 0, done.stderr
    assert "tokens" in done.stdout


@pytest.mark.parametrize(("page", "command"), RUN)
def test_runs_commands_work(place: Path, page: str, command: str) -> None:
    done = shell(command.replace(" --follow", ""), place)
    assert done.returncode == 0, done.stderr
    assert "my_run" in done.stdout or "step" in done.stdout


OTHERS_MESSAGES = ("CUDA out of memory", "Watchdog caught collective operation timeout")  # torch's and NCCL's
FILLED_IN = {"no step for 30 min": "no step for ", "rank N was ended by SIGKILL": " was ended by "}


def test_the_messages_on_the_page_are_the_codes_own() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = text.split("## What users")[0]
    quoted = [m for m in re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE) if m not in OTHERS_MESSAGES]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "nemo_workflow").rglob("*.py"))
    parts = [part for message in quoted for part in FILLED_IN.get(message, message).split("…")]
    assert len(quoted) > 10
    assert [part for part in parts if part.strip(" :") and part not in sources] == []
