"""Without one of the packages that a command uses: it does without, or says which to install; never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.utils.errors import PACKAGES
from tests.places import Place, write_nemo_model
from tools import demo

REPOSITORY = Path(__file__).resolve().parents[2]
# Python runs it at its start; it stands in for an environment that lacks the package
BLOCK = """
import os, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == os.environ["MISSING"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("block")
    (folder / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    return folder


def run(block: Path, package: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(block), "MISSING": package}
    words = [str(word) for word in command]
    words = words if words[0] == "bash" else [sys.executable, *words]
    return subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.jsonl").write_text('{"text": "some words"}\n' * 20, encoding="utf-8")
    demo.train_tokenizer(folder / "a.jsonl", folder / "tokenizer", vocabulary=300)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


MISSING = ("orjson", "xxhash", "wandb", "fastokens", "bokeh", "rich", "opencc", "psutil")


@pytest.mark.parametrize("package", MISSING)
def test_a_plan_is_made_or_the_package_is_named(block: Path, place: Place, package: str) -> None:
    done = run(block, package, "pretrain_llm.py", *place.flags("--dry-run"))
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or (done.returncode == 2 and f"pip install {PACKAGES[package]}" in done.stderr)
    assert (done.returncode == 0) == (package != "xxhash"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", MISSING)
def test_text_is_preprocessed_or_the_package_is_named(block: Path, text: Path, tmp_path: Path, package: str) -> None:
    words = [
        "--hf-tokenizer",
        text / "tokenizer",
        "--data-prefix",
        "a",
        "--input-dir",
        text,
        "--output-dir",
        tmp_path / "out",
    ]
    done = run(block, package, "-m", "nemo_workflow.preprocess", *map(str, words))
    assert "Traceback" not in done.stderr
    if package == "orjson":
        assert done.returncode == 2 and "the package orjson is not installed; pip install orjson" in done.stderr
        assert not (tmp_path / "out").exists()
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", MISSING)
@pytest.mark.parametrize(
    "command",
    [
        ("download_example_data/download_wiki.py", "--convert", "s2t", "--base-url", "http://127.0.0.1:9"),
        ("ckpt_conversion/convert_from_hf_to_nemo2.py", "--source", "/nowhere/x", "--output-path", "/nowhere/y"),
        ("ckpt_conversion/convert_from_nemo2_to_hf.py", "--source", "/nowhere/x", "--output-path", "/nowhere/y"),
        ("-m", "nemo_workflow.runs", "list", "--output-dir", "/nowhere"),
        ("-m", "nemo_workflow.dataset", "/nowhere"),
    ],
)
def test_no_command_ends_in_a_traceback(block: Path, package: str, command: tuple[str, ...]) -> None:
    done = run(block, package, *command)
    assert "Traceback" not in done.stderr and done.returncode in (0, 1, 2)


def test_wandb_is_asked_for_before_a_start(block: Path, place: Place) -> None:
    done = run(block, "wandb", "pretrain_llm.py", *place.flags("--wandb"))
    assert done.returncode == 2 and "--wandb: the package wandb is not installed; pip install wandb" in done.stderr


COMMANDS = (
    ("pretrain_llm.py", "--dry-run", "--hf-model-id", ".", "--dataset-dir", "."),
    ("bash", "preprocess_data.sh", "--tokenizer", "TOKENIZER", "--input", "README.md", "--output-dir", "OUT"),
    ("ckpt_conversion/convert_from_nemo2_to_hf.py", "--source", "CHECKPOINT", "--output-path", "OUT"),
    ("download_example_data/download_wiki.py", "--base-url", "http://127.0.0.1:9"),
    ("-m", "nemo_workflow.tokenizer", "--input", "README.md", "--output-dir", "OUT"),
    ("-m", "nemo_workflow.runs", "compare", "a", "b"),
    ("-m", "nemo_workflow.dataset", "DATA"),
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, and a Python that has nothing: bare/bin/python."""
    folder = tmp_path_factory.mktemp("clone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
    for name in ("nemo_workflow", "ckpt_conversion", "download_example_data"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pretrain_llm.py", "preprocess_data.sh", "Makefile", "README.md"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_where_nothing_is_installed_one_command_is_named(
    bare: Path, command: tuple[str, ...], text: Path, place: Place, tmp_path: Path
) -> None:
    """Not one package after the other."""
    places = {"TOKENIZER": str(text / "tokenizer"), "OUT": str(bare / "out"), "DATA": str(place.data)}
    places |= {
        "CHECKPOINT": str(write_nemo_model(tmp_path / "nemo", num_layers=2, hidden_size=64)),
    }
    words = [places.get(word, word) for word in command]
    words = words if words[0] == "bash" else [str(bare / "bare" / "bin" / "python"), *words]
    path = f"{bare / 'bare' / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        words, cwd=bare, env={"PATH": path, "HOME": str(bare)}, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 2 and "not installed" in done.stderr:
        assert f"type `make install` in {bare} (or pip install -r requirements.txt there)" in done.stderr
        assert f"`source {bare}/.venv/bin/activate`" in done.stderr
    else:
        pytest.fail(f"{done.returncode}: {done.stdout}{done.stderr}")
