"""Every command of the README that a CPU can run is run, as printed; the others are planned or parsed.

A new shell block in the README has to be given a way to run here, or the test fails.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```bash\n(.*?)^```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)

# how a block that starts with these words is tried
NOT_RUN = {
    "make install": ".ci/run makes the environment",
    "python3.11 -m venv": ".ci/run makes the environment in the same way",
    "huggingface-cli download": "needs the network",
    "python download_example_data": "needs the network; tests/wikipedia runs it against a site of its own",
}
RUN = ("bash preprocess_data.sh", "python ckpt_conversion/convert_from_hf", "python ckpt_conversion/convert_from_nemo2")
OWN_TEXT = "python -m nemo_workflow.tokenizer"
PLANNED = ("python pretrain_llm.py",)


def test_every_block_is_accounted_for():
    known = (*NOT_RUN, *RUN, *PLANNED, OWN_TEXT)
    assert [block for block in BLOCKS if not block.startswith(known)] == []
    assert all(any(block.startswith(start) for block in BLOCKS) for start in known)


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


def shell(block: str, world: dict, tail: str = "") -> subprocess.CompletedProcess:
    environment = os.environ | {name: str(value) for name, value in world.items() if name != "place"}
    return subprocess.run(
        ["bash", "-euc", block.rstrip() + tail],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def block_of(start: str) -> str:
    return next(block for block in BLOCKS if block.startswith(start))


def test_the_training_command_is_accepted(world):
    """It asks for 8 GPUs and more data than a test has: planned, with a smaller batch."""
    done = shell(block_of("bash preprocess_data.sh"), world, " --overwrite")
    assert done.returncode == 0, done.stderr
    block = block_of("python pretrain_llm.py").replace("    --nemo-model ${NEMO2_MODEL_DIR} \\\n", "")
    done = shell(block, world, " --dry-run --accelerator gpu --seq-length 128 --global-batch-size 8 --split 50,25,25")
    assert done.returncode == 0, done.stderr
    assert "llama31_8b" in done.stdout
