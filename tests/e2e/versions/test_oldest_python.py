"""The pipeline with the oldest Python 3.11 that the project meets, Debian 12's 3.11.2, over this environment's packages.

What one patch release of Python pickles, another may not read, so each step reads what the one before wrote.
.ci/install_python installs it; without it the tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tools import demo

REPOSITORY = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("OLDEST_PYTHON", "/usr/bin/python3.11"))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.thorough,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} is not installed (.ci/install_python)"),
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="this environment's packages are compiled for another Python"
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/, dataset/ and hf/: a corpus, and a model of llama_tiny's sizes with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("oldest")
    demo.write_corpus(made / "raw" / "stdlib.jsonl", limit=600_000)
    demo.train_tokenizer(made / "raw" / "stdlib.jsonl", made / "hf", vocabulary=512)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=256, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(made / "hf")
    return made


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oldest Python in an environment of its own, which has this environment's packages."""
    made = tmp_path_factory.mktemp("environment")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", made], check=True)
    (packages,) = made.glob("lib/python3.*/site-packages")
    (packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made / "bin" / "python"


def run(*words: Any) -> str:
    """Run a command in the repository, without leaving bytecode there; returns what it printed."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


# more than a minute: each of its processes imports NeMo, one after the other
def test_import_train_resume_export(place: Path, python: Path) -> None:
    run(python, "-m", "nemo_workflow.preprocess", "--input", place / "raw", "--tokenizer", place / "hf",
        "--output-dir", place / "dataset")  # fmt: skip
    nemo = place / "nemo2"
    run(python, "ckpt_conversion/convert_from_hf_to_nemo2.py", "--source", place / "hf", "--output-path", nemo)
    train = (
        "pretrain_llm.py", "--accelerator", "cpu", "--num-gpus", 1, "--model-name", "llama_tiny",
        "--hf-model-id", place / "hf", "--nemo-model", nemo, "--dataset-dir", place / "dataset", "--output-dir", place,
        "--experiment", "run", "--global-batch-size", 2, "--seq-length", 64, "--split", "80,20,0",
    )  # fmt: skip
    run(python, *train, "--max-steps", 2)
    run(python, *train, "--max-steps", 4)
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["steps"] == 4 and len(list((place / "run" / "attempts").iterdir())) == 2
    assert (
        summary["versions"]["python"] == run(python, "-c", "import platform; print(platform.python_version())").strip()
    )
    (checkpoint,) = (place / "run" / "checkpoints").glob("step_*4")
    run(
        python,
        "ckpt_conversion/convert_from_nemo2_to_hf.py",
        "--source",
        checkpoint,
        "--output-path",
        place / "exported",
    )
    import torch
    from safetensors.torch import load_file

    before, after = (load_file(place / name / "model.safetensors") for name in ("hf", "exported"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
