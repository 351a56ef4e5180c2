"""What multi_gpu.py trains: a corpus, a tokenizer and tiny models with fixed weights, made on the spot.

Every layout starts from the same imported weights, since with random ones each layout draws others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tools import demo

REPOSITORY = Path(__file__).resolve().parents[1]
CORPUS_BYTES = 2_000_000
SIZES: dict[str, Any] = {
    "vocab_size": demo.VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}
LATENT = {  # DeepSeek V3's layers: latent attention, one dense layer, then experts in groups
    "num_key_value_heads": 8, "head_dim": 16, "moe_intermediate_size": 128, "n_routed_experts": 8, "n_shared_experts": 1,
    "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "first_k_dense_replace": 1, "q_lora_rank": 64, "kv_lora_rank": 32,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 384, "sliding_window": None}


def prepare(folder: Path, models: tuple[str, ...] = ("dense", "experts")) -> None:
    """Fill `folder` with tokenizer/, dataset/ and the models, NeMo 2 checkpoints; what is there already stays."""
    corpus = folder / "text" / "stdlib.jsonl"
    if not corpus.exists():
        demo.write_corpus(corpus, CORPUS_BYTES)
    if not (folder / "tokenizer" / "tokenizer.json").exists():
        demo.train_tokenizer(corpus, folder / "tokenizer")
    if not (folder / "dataset").exists():
        words = ["bash", "preprocess_data.sh", "--hf-tokenizer", folder / "tokenizer", "--data-prefix", "stdlib"]
        run([*words, "--input-dir", corpus.parent, "--output-dir", folder / "dataset"])
    for name in models:
        if not (folder / name).exists():
            make_model(name, folder / f"{name}_hf", folder / "tokenizer")
            convert = [sys.executable, "ckpt_conversion/convert_from_hf_to_nemo2.py", "--source"]
            run([*convert, folder / f"{name}_hf", "--output-path", folder / name])


def make_model(name: str, folder: Path, tokenizer: Path) -> None:
    """A Hugging Face folder with weights drawn from one seed."""
    import torch
    import transformers

    torch.manual_seed(0)
    if name == "dense":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    elif name == "latent":
        model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**{**SIZES, **LATENT}))
    else:
        model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**{**SIZES, **EXPERTS}))
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def run(words: list[Any]) -> None:
    subprocess.run([str(word) for word in words], cwd=REPOSITORY, check=True)
