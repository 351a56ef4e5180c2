"""The README's shell blocks, and a small world in which they run as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```bash\n(.*?)^```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)
RUN = ("bash preprocess_data.sh", "python ckpt_conversion/convert_from_hf", "python ckpt_conversion/convert_from_nemo2")
OWN_TEXT = "python -m nemo_workflow.tokenizer"


def make_world(place: Path) -> dict[str, Any]:
    """A small model, tokenizer and corpus, and the README's variables set to them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tools import demo

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


def shell(
    block: str, world: dict[str, Any], tail: str = "", where: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
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
