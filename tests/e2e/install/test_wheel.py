"""`pip install .`: the wheel holds what every command needs, and each works by its name on the path, from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from nemo_workflow.run_dir import metrics
from tests.e2e.run.conftest import make_corpus

REPOSITORY = Path(__file__).resolve().parents[3]
COMMANDS = (
    "pretrain-llm",
    "preprocess-data",
    "convert-hf-to-nemo2",
    "convert-nemo2-to-hf",
    "download-wiki",
    "nemo-runs",
)
# of an ending that nobody listed, in a folder that is no package
ODD_FILE = "some_data/some.ending"
pytestmark = [pytest.mark.e2e, pytest.mark.thorough]


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment with our wheel, which sees this one's packages beside it (they would be 2 GB again)."""
    place = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", "__pycache__", "site", "demo_output")
    shutil.copytree(REPOSITORY, place / "source", ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    odd = place / "source" / "nemo_workflow" / ODD_FILE
    odd.parent.mkdir()
    odd.write_text("data\n", encoding="utf-8")
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, place / "source"]
    subprocess.run(build, check=True, cwd=place, capture_output=True)
    shutil.rmtree(place / "source")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    python = place / "env" / "bin" / "python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(own) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True, capture_output=True)
    return python.parent


def run(bin_folder: Path, cwd: Path, *words: str | Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [bin_folder / words[0], *words[1:]]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(bin_folder: Path, tmp_path: Path, command: str) -> None:
    assert "usage:" in run(bin_folder, tmp_path, command, "--help")


def test_data_files_and_scripts_came_along(bin_folder: Path, tmp_path: Path) -> None:
    assert "llama32_1b" in run(bin_folder, tmp_path, "pretrain-llm", "--list-models")
    (packages,) = bin_folder.parent.glob("lib/python3*/site-packages")
    for path in (
        "pretrain_llm.py",
        "ckpt_conversion/convert_from_nemo2_to_hf.py",
        "download_example_data/download_wiki.py",
        "nemo_workflow/models/catalog.json",
        f"nemo_workflow/{ODD_FILE}",
    ):
        assert (packages / path).is_file(), path
    ours = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "nemo_workflow").rglob("*") if path.is_file()}
    missing = [path for path in ours if "__pycache__" not in path.parts and not (packages / path).is_file()]
    assert missing == []


# more than a minute: the whole pipeline by the commands of the wheel
def test_text_to_a_trained_and_exported_model(bin_folder: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    shutil.rmtree(corpus / "dataset")
    run(
        bin_folder, tmp_path, "preprocess-data", "--hf-tokenizer", "corpus/tokenizer", "--data-prefix", "text",
        "--input-dir", "corpus/data", "--output-dir", "dataset",
    )  # fmt: skip
    run(
        bin_folder, tmp_path, "pretrain-llm", "--accelerator", "cpu", "-M", "llama_tiny", "--hf-model-id", "corpus/tokenizer",
        "--dataset-dir", "dataset", "-G", "1", "-gbs", "4", "-mbs", "2", "--seq-length", "64", "--max-steps", "2",
        "-E", "run", "--sample", "def main",
    )  # fmt: skip
    steps = [
        event["step"]
        for event in metrics.read(tmp_path / "nemo_experiments" / "run" / metrics.FILE)
        if event["event"] == "step"
    ]
    assert steps == [1, 2]
    assert (tmp_path / "nemo_experiments" / "run" / "hf_model" / "config.json").is_file()
    assert "finished" in run(bin_folder, tmp_path, "nemo-runs", "list")
    run(
        bin_folder, tmp_path, "convert-hf-to-nemo2", "--source", "nemo_experiments/run/hf_model", "--output-path", "nemo2",
    )  # fmt: skip
    assert (tmp_path / "nemo2" / "weights").is_dir()
