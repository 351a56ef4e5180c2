"""The commands on the pages: trainings are planned, light commands are run; the rest is accounted for, every flag is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.config import help as help_page
from tests import forked
from tests.places import write_pair, write_tokenizer
from tests.runs import fake_runs

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(path.stem for path in (REPOSITORY / "docs").glob("*.md"))
RUN_WHOLE = ("continual",)  # by tests/e2e/run/test_continual.py, in its order
NOT_RUN = {
    "make demo": "tests/e2e/demo/test_demo.py runs the demo",
    "docker": "needs NVIDIA's container",
    "apptainer build": "needs NVIDIA's container",
    "python -m nemo_workflow.tokenizer": "tests/e2e/demo/test_readme.py runs it",
    "bash preprocess_data.sh --executor slurm": "tests/e2e/slurm/test_corpus.py runs it",
    "bash preprocess_data.sh --tokenizer my_texts_tokenizer": "tests/e2e/demo/test_readme.py runs it",
    "python pretrain_llm.py --config examples/": "tests/docs/test_examples.py plans it, tests/e2e/demo/test_readme.py runs it",
    "python ckpt_conversion": "tests/e2e/demo/test_readme.py runs it",
    "python -m nemo_workflow.sample": "tests/e2e/demo/test_demo.py runs it",
    "tensorboard": "serves until it is stopped",
    "cd download_example_data": "tests/wikipedia runs it against a site of its own",
    "python download_wiki.py": "tests/wikipedia runs it against a site of its own",
}


def commands() -> list[tuple[str, str]]:
    """(page, command) of every bash block, continued lines joined."""
    found = []
    for page in (page for page in PAGES if page not in RUN_WHOLE):
        text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found += [(page, line) for line in block.replace("\\\n", " ").strip().splitlines()]
    return found


COMMANDS = commands()
ELSEWHERE = tuple(start for start, why in NOT_RUN.items() if why.startswith("tests/"))
PLANNED = [e for e in COMMANDS if e[1].startswith("python pretrain_llm.py") and not e[1].startswith(ELSEWHERE)]
LIGHT = ("python -m nemo_workflow.runs", "bash preprocess_data.sh", "python -m nemo_workflow.dataset")
RUN = [entry for entry in COMMANDS if entry[1].startswith(LIGHT) and not entry[1].startswith(ELSEWHERE)]


def test_every_command_is_accounted_for() -> None:
    rest = [entry for entry in COMMANDS if entry not in PLANNED + RUN]
    assert [entry for entry in rest if not entry[1].startswith(tuple(NOT_RUN))] == []
    assert all(any(command.startswith(start) for _, command in rest) for start in NOT_RUN)
    assert len(PLANNED) > 8 and len(RUN) > 8  # the search for commands finds some


def world(place: Path) -> dict[str, str]:
    """The variables that the pages' commands use."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(place / "hub"), "PROCESSED_DATASET_DIR": str(place / "data"),
        "HF_MODEL_DIR": str(place / "demo_output" / "tokenizer"), "DATASET_DIR": str(place / "raw"), "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    }  # fmt: skip


def shell(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-euc", command]
    return subprocess.run(words, cwd=place, env=world(place), capture_output=True, text=True, check=False)


def words_of(command: str, place: Path) -> list[str]:
    """What the shell makes of a command of `python`: the words after it."""
    done = shell(f"""python() {{ printf '%s\\0' "$@"; }}; {command}""", place)
    return done.stdout.split("\0")[:-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages suppose it: data, the demo's output, two runs."""
    root = tmp_path_factory.mktemp("pages")
    write_pair(root / "data" / "preprocessed" / "wiki_text_document", [3000] * 4000, "int32")
    write_pair(root / "demo_output" / "dataset" / "preprocessed" / "stdlib_text_document", [300] * 1000)
    write_tokenizer(root / "demo_output" / "tokenizer")
    for name in ("my_run", "other_run", "on_slurm"):
        fake_runs.write_run(root / "nemo_experiments" / name)
    for command in ("pretrain_llm.py", "preprocess_data.sh"):
        (root / command).symlink_to(REPOSITORY / command)
    (root / "raw").mkdir()
    (root / "raw" / "zh_classicalwiki-20250101-pages-articles-multistream.jsonl").write_text('{"text": "w1 w2 w3"}\n')
    for name in ("web/2025-01-01/part-00000", "web/2025-01-02/part-00000", "wiki/2025-01-01/part-00000"):
        path = root / "raw" / "corpus" / f"{name}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text('{"text": "w1 w2 w3"}\n')
    return root


@pytest.mark.parametrize(("page", "command"), PLANNED)
def test_trainings_are_accepted(place: Path, page: str, command: str) -> None:
    accelerator = "" if "--accelerator" in command or "slurm" in command else " --accelerator gpu"
    if "slurm" in command:
        command = command.replace("--executor slurm", "--executor local --accelerator gpu -N 1").replace("-N 2", "")
        command = re.sub(
            r"-A ACCOUNT|-P PARTITION|-I (IMAGE|\S+\.sif)|--container-runtime apptainer|--time \S+|--requeue \d+",
            "",
            command,
        )
        command = command.replace("/data/wiki", "${PROCESSED_DATASET_DIR}")
    if "-gbs" not in command:
        command += " -gbs 64"  # the default is made for more data than a test has
    done = forked.run(words_of(f"{command}{accelerator} --dry-run", place), cwd=place, env=world(place))
    assert done.returncode == 0, done.stderr
    assert "tokens" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), RUN)
def test_light_commands_work(place: Path, page: str, command: str) -> None:
    done = shell(command.replace(" --follow", ""), place)
    assert done.returncode == 0, done.stderr
    assert any(word in done.stdout + done.stderr for word in ("my_run", "on_slurm", "step", "tokens"))


COMMANDS_WITH_FLAGS = (
    ["-m", "nemo_workflow.preprocess", "--help", "all"], ["-m", "nemo_workflow.dataset"], ["-m", "nemo_workflow.tokenizer"], ["-m", "nemo_workflow.sample"],
    ["-m", "nemo_workflow.evaluate"], ["-m", "nemo_workflow.export"], ["ckpt_conversion/convert_from_hf_to_nemo2.py"],
    ["ckpt_conversion/convert_from_nemo2_to_hf.py"], ["download_example_data/download_wiki.py"],
    *(["-m", "nemo_workflow.runs", name] for name in ("report", "compare", "logs", "cancel", "average")), ["-m", "nemo_workflow.runs"],
    ["benchmarks/gpu/run_cases.py"],
)  # fmt: skip
OTHERS_FLAGS = {
    "pip": "--no-build-isolation", "docker": "--rm --gpus --ipc --ulimit", "tensorboard": "--logdir", "apptainer": "--nv",
    "wandb": "--id", "sbatch": "--export --test-only --kill-on-invalid-dep --gpus-per-node --requeue",
    "hf": "--local-dir", "benchmarks": "--other-python",
}  # fmt: skip


@pytest.mark.slow
def test_every_flag_on_a_page_is_a_flag() -> None:
    """In the README too; a flag is what stands in code and begins with two hyphens."""
    known = set(" ".join(OTHERS_FLAGS.values()).split()) | {"--help"}
    known |= set(re.findall(r"--[a-z][\w-]*", help_page.text("all"))) | {"--dataset-path"}
    for words in COMMANDS_WITH_FLAGS:
        done = subprocess.run(
            [sys.executable, *words, *([] if "--help" in words else ["--help"])],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        known |= set(re.findall(r"--[a-z][\w-]*", done.stdout))
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs" / f"{page}.md" for page in PAGES)]
    unknown = {
        f"{path.name}: {flag}"
        for path in pages
        for code in re.findall(
            r"^```bash\n.*?^```|`[^`\n]+`", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
        if flag not in known
    }
    assert unknown == set()


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
