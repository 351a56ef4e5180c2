"""Every file of examples/ is taken by --config and planned, and says itself how it is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.resolve import make_plan
from tests.places import write_nemo_model, write_pair, write_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
CARDS = {"one_gpu_24gb": "4090"}  # what the example is made for, where that is no H100

CONTINUED = {
    "continue_llama32_1b": ("llama.LlamaModel", "llama.Llama32Config1B"),
    "continue_qwen25_1p5b": ("qwen2.Qwen2Model", "qwen2.Qwen25Config1P5B"),
}
SLURM = ("executor", "account", "partition", "time", "requeue", "num-nodes")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    write_pair(root / "data" / "preprocessed" / "text_text_document", [3000] * 9000, "int32")
    write_tokenizer(root / "tokenizer")
    for name, (model, config) in CONTINUED.items():
        write_nemo_model(root / name, model=model, config=config, seq_length=8192)
    return root


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_are_planned(place: Path, example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "hub"))
    asked = command_line.read_config(str(example))
    if asked.get("executor") == "slurm":  # there is no cluster here: planned as one node's ranks
        lines = example.read_text(encoding="utf-8").splitlines()
        example = place / example.name
        example.write_text("\n".join(line for line in lines if line.partition(":")[0] not in SLURM))
    words = ["--config", str(example), "-E", "tried", "--output-dir", str(place / "out"), "--dry-run"]
    words += ["--dataset-dir", str(place / "data")]
    if asked.get("accelerator") != "cpu":
        words += ["--accelerator", "gpu", "--gpu", CARDS.get(example.stem, "h100")]
    if "nemo_model" in asked:
        words += ["--nemo-model", str(place / example.stem)]
    if "/" not in asked["hf_model_id"]:
        words += ["--hf-model-id", str(place / "tokenizer")]
    plan = make_plan(command_line.parse(words))
    assert plan.schedule.max_steps > 0
    assert not [note for note in plan.notes if "more than the" in note], "it doesn't fit the card it is for"


def test_each_example_says_how_it_is_called() -> None:
    assert len(EXAMPLES) >= 7
    for path in EXAMPLES:
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert any(f"--config examples/{path.name} " in line for line in comments), path.name
        assert not re.search(r"\$\{|\$[A-Z]", path.read_text(encoding="utf-8")), path.name
