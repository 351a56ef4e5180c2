"""README's pipeline for every family that the conversion takes: import -> training -> export, the config is the source's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.conversion import supported
from nemo_workflow.models.families import FAMILIES, by_model_type
from nemo_workflow.run_dir.checkpoints import newest_whole
from tests.conversion import tiny_models as tiny
from tests.e2e.conversion import train_families
from tests.e2e.run.harness import FAULTS
from tests.places import hub_snapshot

ROOT = Path(__file__).resolve().parents[3]
NAMES = [name for name in tiny.EXACT if name != "llama_tiny"]
WHOLE = "qwen3_moe"  # one that goes through the launcher too; test_layouts.py sends a Llama


# more than a minute: every family is imported, trained and exported
@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders hf, nemo, runs and back of every model; one process has imported NeMo for all of them."""
    folder = tmp_path_factory.mktemp("families")
    script = Path(train_families.__file__)
    path = os.pathsep.join([str(ROOT), str(script.parent), str(FAULTS)])  # by the last no report.html is written
    # as a model built before leaves it, or a user's shell: Gemma's configuration asks for another
    attention = {"NVTE_FLASH_ATTN": "1", "NVTE_FUSED_ATTN": "1", "NVTE_UNFUSED_ATTN": "1"}
    environment = {**os.environ, **attention, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *NAMES], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.e2e
@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_config_after_training_is_the_sources(name: str, trained: Path) -> None:
    place = trained / name
    error = place / "error.txt"
    assert not error.exists(), error.read_text()
    if name.startswith("baichuan"):  # its words can't say what NeMo trains
        assert_is_a_llama(place / "hf", place / "back")
    else:
        same_config(place / "hf", place / "back")
    if not name.startswith((*train_families.GPU_ONLY, *train_families.NO_RECIPE)):
        events = [json.loads(line) for line in (place / "runs" / "run" / "metrics.jsonl").read_text().splitlines()]
        losses = [event["loss"] for event in events if event["event"] == "step"]
        assert len(losses) == train_families.STEPS and all(0 < loss < 20 for loss in losses)


def assert_is_a_llama(source: Path, back: Path) -> None:
    """The trained output layer has rows of any length, which Baichuan's code would divide away."""
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, back))
    assert (after["model_type"], after["architectures"]) == ("llama", ["LlamaForCausalLM"])
    own = {"model_type", "architectures", "auto_map", "model_max_length", "_from_model_config"}
    assert {key: before[key] for key in before.keys() - own} == {key: after[key] for key in after.keys() - own}
    assert "no longer of length one" in (back / "conversion_report.json").read_text()
    same = "generation_config.json"
    assert (source / same).read_bytes() == (back / same).read_bytes()


def same_config(source: Path, back: Path) -> None:
    for file in ("config.json", "generation_config.json"):
        assert json.loads((source / file).read_text()) == json.loads((back / file).read_text()), file


@pytest.mark.e2e
@pytest.mark.thorough
def test_through_the_launcher(trained: Path) -> None:
    """The commands as a user types them, for a model whose config class nemo.collections.llm doesn't export.

    The tokenizer is a Hub id's, in the cache, and saved by transformers 5, which the workers' 4.57 doesn't read.
    """
    place = trained / WHOLE
    tokenizer_config = hub_snapshot(place / "hf", place / "hub" / "models--org--model") / "tokenizer_config.json"
    newer = {**json.loads(tokenizer_config.read_text()), "tokenizer_class": "TokenizersBackend"}
    tokenizer_config.write_text(json.dumps(newer))
    train = [
        *train_families.flags(WHOLE, place, trained / "data"),
        "--experiment",
        "typed",
        "--hf-model-id",
        "org/model",
    ]
    environment = {**os.environ, "HF_HUB_CACHE": str(place / "hub")}
    done = subprocess.run(
        [sys.executable, "pretrain_llm.py", *train], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint, _ = newest_whole(place / "runs" / "typed" / "checkpoints")
    command = [sys.executable, "ckpt_conversion/convert_from_nemo2_to_hf.py"]
    command += ["--source", str(checkpoint.path), "--output-path", str(place / "typed")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    same_config(place / "hf", place / "typed")
    named = {"model_input_names": ["input_ids", "attention_mask"]}  # the export says what a model's forward takes
    assert json.loads((place / "typed" / "tokenizer_config.json").read_text()) == named | newer


@pytest.mark.e2e
@pytest.mark.thorough
def test_supported_model_txt_says_what_was_seen_here(trained: Path) -> None:
    """FAMILY_RESULTS=FILE writes what nemo_workflow/conversion/proved.json should hold."""
    seen: dict[str, str] = {}
    for name in NAMES:
        model_type = json.loads((trained / name / "hf" / "config.json").read_text())["model_type"]
        family = by_model_type(model_type)
        assert family is not None
        failed = (trained / name / "error.txt").exists() or not (trained / name / "back").is_dir()
        seen[family.name] = "failed" if failed or seen.get(family.name) == "failed" else word(name)
    if target := os.environ.get("FAMILY_RESULTS"):
        Path(target).write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")
    assert seen == supported.proved()
    assert seen.keys() == {family.name for family in FAMILIES}


def word(name: str) -> str:
    if name.startswith(train_families.GPU_ONLY):
        return "gpu"
    return "no recipe" if name.startswith(train_families.NO_RECIPE) else "trained"
