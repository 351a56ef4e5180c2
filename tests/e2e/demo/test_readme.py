"""Every command of the README that a CPU can run is run, as printed; the others are planned or parsed.

A new shell block in the README has to be given a way to run here, or the test fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(
    r"^```bash\n(.*?)^```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)
RUN = ("bash preprocess_data.sh", "python ckpt_conversion/convert_from_hf", "python ckpt_conversion/convert_from_nemo2")
OWN_TEXT = "python -m nemo_workflow.tokenizer"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small model, tokenizer and corpus, and the README's variables set to them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tools import demo

    place = tmp_path_factory.mktemp("readme")
    corpus = place / "raw" / "stdlib.jsonl"
    demo.write_corpus(corpus, limit=300_000)
    demo.train_tokenizer(corpus, place / "hf", vocabulary=512)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(place / "hf")
    return {
        "place": place,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_MODEL_DIR": place / "hf", "NEMO2_MODEL_DIR": place / "nemo2", "DATA_PREFIX": "stdlib",
        "DATASET_DIR": place / "raw", "PROCESSED_DATASET_DIR": place / "processed", "OUTPUT_DIR": place / "exported",
        "NEMO_MODEL_NAME": "LlamaModel", "NEMO_CONFIG_NAME": "LlamaConfig", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def shell(block: str, world: dict, tail: str = "", where: Path = REPOSITORY) -> subprocess.CompletedProcess:
    environment = os.environ | {name: str(value) for name, value in world.items() if name != "place"}
    return subprocess.run(
        ["bash", "-euc", block.rstrip() + tail],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def block_of(start: str) -> str:
    return next(block for block in BLOCKS if block.startswith(start))


@pytest.mark.e2e
def test_the_pipelines_commands_run_as_printed(world):
    for start in RUN:
        done = shell(block_of(start), world)
        assert done.returncode == 0, f"{start}: {done.stderr[-2000:]}"
    assert (world["place"] / "processed" / "preprocessed" / "stdlib_text_document.idx").is_file()
    assert sorted(path.name for path in world["NEMO2_MODEL_DIR"].iterdir() if path.is_dir()) == ["context", "weights"]
    assert (world["OUTPUT_DIR"] / "config.json").is_file()
    shutil.rmtree(world["OUTPUT_DIR"])


@pytest.mark.e2e
def test_own_text_becomes_a_model_that_writes(world, tmp_path):
    """The first page's commands as printed, but for the number of steps, in a folder that holds what a clone holds."""
    for name in ("pretrain_llm.py", "preprocess_data.sh", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    lines = (world["place"] / "raw" / "stdlib.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "my_text.txt").write_text("\n".join(json.loads(line)["text"] for line in lines), encoding="utf-8")
    done = shell(block_of(OWN_TEXT), world | {"PYTHONPATH": REPOSITORY}, " --max-steps 3", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Once upon a time" in done.stdout.splitlines()[-1] or "\nOnce upon a time" in done.stdout
    assert (tmp_path / "nemo_experiments" / "my_run" / "hf_model" / "config.json").is_file()
    assert (tmp_path / "nemo_experiments" / "my_run" / "report.html").is_file()
