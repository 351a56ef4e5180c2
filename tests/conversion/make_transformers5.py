"""Write transformers5.json: config.json of tiny models as transformers 5 saves them, and some of the logits that it computes.

Run with a Python that has transformers 5 (the tests' own has 4.57): python tests/conversion/make_transformers5.py
Weights are made from their names, so that either version has the same ones without storing them.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("transformers5.json")
SIZES: dict[str, Any] = {
    "vocab_size": 291,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
TIED = SIZES | {"tie_word_embeddings": True}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64, "rope_theta": 500000.0,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "moe_intermediate_size": 48, "n_routed_experts": 8, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 24, "num_hidden_layers": 3, "first_k_dense_replace": 1,
}  # fmt: skip
EXPERTS = {
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
}
GEMMA3 = {"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}


def rope(theta: float = 10000.0, kind: str = "default", **more: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **more}


BY_LAYER = {"full_attention": rope(5e5, "linear", factor=8.0), "sliding_attention": rope(20000.0)}
MODELS: dict[str, Callable[[Any], Any]] = {
    "llama_theta": lambda tf: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, rope_parameters=rope(5e5))),
    "llama_plain": lambda tf: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES)),
    "llama_llama3": lambda tf: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "llama_linear": lambda tf: tf.LlamaForCausalLM(
        tf.LlamaConfig(**SIZES, rope_parameters=rope(kind="linear", factor=4.0))
    ),
    "mistral": lambda tf: tf.MistralForCausalLM(
        tf.MistralConfig(**SIZES, sliding_window=None, rope_parameters=rope(1e6))
    ),
    "qwen2": lambda tf: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SIZES, rope_parameters=rope(1e6))),
    "qwen3": lambda tf: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SIZES, head_dim=32, rope_parameters=rope(1e6))),
    "qwen3_moe": lambda tf: tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**SIZES, **EXPERTS, rope_parameters=rope(1e6))),
    "mixtral": lambda tf: tf.MixtralForCausalLM(tf.MixtralConfig(**SIZES, num_local_experts=4)),
    "gemma": lambda tf: tf.GemmaForCausalLM(tf.GemmaConfig(**TIED, head_dim=32)),
    "gemma2": lambda tf: tf.Gemma2ForCausalLM(tf.Gemma2Config(**TIED, head_dim=32, sliding_window=512)),
    "gemma3": lambda tf: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**{**TIED, **GEMMA3})),
    "gemma3_by_layer": lambda tf: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(**{**TIED, **GEMMA3}, rope_parameters=BY_LAYER)
    ),
    "phi3": lambda tf: tf.Phi3ForCausalLM(tf.Phi3Config(**SIZES)),
    "phi3_partial": lambda tf: tf.Phi3ForCausalLM(
        tf.Phi3Config(**SIZES, rope_parameters=rope(partial_rotary_factor=0.5))
    ),
    "nemotron": lambda tf: tf.NemotronForCausalLM(tf.NemotronConfig(**SIZES, head_dim=32)),
    "nemotron_partial": lambda tf: tf.NemotronForCausalLM(
        tf.NemotronConfig(**SIZES, head_dim=32, rope_parameters=rope(partial_rotary_factor=0.25))
    ),
    "gpt_oss": lambda tf: tf.GptOssForCausalLM(
        tf.GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8)
    ),
    "deepseek_v2": lambda tf: tf.DeepseekV2ForCausalLM(
        tf.DeepseekV2Config(**{**SIZES, **LATENT}, q_lora_rank=None, n_shared_experts=2, num_experts_per_tok=3)
    ),
    "deepseek_v3": lambda tf: tf.DeepseekV3ForCausalLM(
        tf.DeepseekV3Config(
            **{**SIZES, **LATENT}, q_lora_rank=32, n_shared_experts=1, n_group=4, topk_group=2, num_experts_per_tok=4
        )
    ),
    "starcoder2": lambda tf: tf.Starcoder2ForCausalLM(tf.Starcoder2Config(**SIZES)),
    "starcoder": lambda tf: tf.GPTBigCodeForCausalLM(
        tf.GPTBigCodeConfig(
            vocab_size=291, n_positions=96, n_embd=64, n_inner=160, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
        )
    ),
}


def fill(weights: dict[str, Any]) -> None:
    """Give tensors, by their names in a file, values that depend on the name alone; norms near 1."""
    import torch

    for name, values in weights.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if name.endswith("e_score_correction_bias"):
            made = torch.rand(values.shape, generator=generator) * 0.6
        else:
            norm = "norm" in name or ".ln_" in name
            middle = 1.0 if norm and name.endswith("weight") else 0.0
            made = torch.randn(values.shape, generator=generator) * (0.3 if values.dim() == 1 else 0.15) + middle
        values.copy_(made.to(torch.bfloat16))


def logits(model: Any) -> list[float]:
    """Those of 16 entries at 4 places of a fixed text of 48 tokens, in fp32."""
    import torch

    tokens = torch.randint(291, (1, 48), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found = model.eval()(input_ids=tokens, use_cache=False).logits[0].float()
    return [round(value, 5) for value in found[[3, 17, 31, 47]][:, 7:23].flatten().tolist()]


def save(model: Any, folder: Path) -> None:
    """Save in bf16, the weights filled by their names."""
    import torch
    from safetensors.torch import load_file, save_file

    model.config.dtype = torch.bfloat16
    model.to(torch.bfloat16).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    fill(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    import torch
    import transformers

    if not transformers.__version__.startswith("5."):
        raise SystemExit(f"transformers {transformers.__version__}: this needs version 5")
    made = {}
    for name, make in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            save(make(transformers), Path(folder))
            config = json.loads((Path(folder) / "config.json").read_text())
            generation = json.loads((Path(folder) / "generation_config.json").read_text())
            loaded = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
            made[name] = {"config": config, "generation_config": generation, "logits": logits(loaded)}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in made.items())
    FILE.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
