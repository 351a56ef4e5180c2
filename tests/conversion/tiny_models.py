"""Tiny random Hugging Face models of every family, with norms and biases that are not the ones training begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conversion import own_code_models

SIZES: dict[str, Any] = {
    "vocab_size": 1003,  # neither even nor the tokenizer's
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
TOKENIZER_SIZE = 290
LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}


LINEAR = {"rope_type": "linear", "factor": 2.0}


def _llama(tf: Any, **changes: Any) -> Any:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**{**SIZES, **changes}))


def _qwen3_moe(tf: Any, **changes: Any) -> Any:
    sizes = {"head_dim": 32, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**{**SIZES, **sizes, **changes}))


def _gemma2(tf: Any, **changes: Any) -> Any:
    sizes = {"tie_word_embeddings": True, "head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 512}
    return tf.Gemma2ForCausalLM(tf.Gemma2Config(**{**SIZES, **sizes, **changes}))


def _gemma3(tf: Any, **changes: Any) -> Any:
    sizes = {
        "tie_word_embeddings": True,
        "num_hidden_layers": 7,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 40,
    }
    return tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**{**SIZES, **sizes, **changes}))


# a model of images and text, whose text part alone is converted
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def _gemma3_of_images(tf: Any) -> Any:
    text = _gemma3(tf, rope_scaling={"rope_type": "linear", "factor": 8.0}).config
    config = tf.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    return tf.Gemma3ForConditionalGeneration(config)


def _mistral3(tf: Any) -> Any:
    text = tf.MistralConfig(**SIZES, head_dim=24, sliding_window=None)
    return tf.Mistral3ForConditionalGeneration(
        tf.Mistral3Config(text_config=text, vision_config={**VISION, "model_type": "pixtral"})
    )


def _gpt_oss(tf: Any) -> Any:
    sizes = {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 40}
    return tf.GptOssForCausalLM(tf.GptOssConfig(**{**SIZES, **sizes}))


LATENT = {
    "num_key_value_heads": 4, "moe_intermediate_size": 48, "n_routed_experts": 8, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 24, "num_hidden_layers": 3, "first_k_dense_replace": 1,
}  # fmt: skip
YARN = {
    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
    "mscale_all_dim": 1.0,
}  # fmt: skip


# fields that the model's class doesn't read, from Unsloth, Falcon 3, SmolLM 2 and web exports
UNREAD = {
    "unsloth_fixed": True, "unsloth_version": "2025.3.19", "activation": "swiglu", "is_llama_config": True,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "sliding_window": 64, "max_sequence_length": 2048,
}  # fmt: skip
GROUPS = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 3}
ONE_GROUP = {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 3, "n_shared_experts": 2}
DROPOUTS = {"attention_dropout": 0.1, "residual_dropout": 0.1, "embedding_dropout": 0.1}


def _deepseek_v2(tf: Any, **changes: Any) -> Any:
    sizes = {"q_lora_rank": None, "n_shared_experts": 2, "num_experts_per_tok": 3}
    return tf.DeepseekV2ForCausalLM(tf.DeepseekV2Config(**{**SIZES, **LATENT, **sizes, **changes}))


def _deepseek_v3(tf: Any, **changes: Any) -> Any:
    sizes = {"q_lora_rank": 32, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4}
    return tf.DeepseekV3ForCausalLM(tf.DeepseekV3Config(**{**SIZES, **LATENT, **sizes, **changes}))


def _starcoder(tf: Any, **changes: Any) -> Any:
    sizes = {
        "n_positions": 96,
        "n_embd": 64,
        "n_inner": 160,
        "n_layer": 2,
        "n_head": 4,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return tf.GPTBigCodeForCausalLM(tf.GPTBigCodeConfig(vocab_size=1003, **sizes, **changes))


def _glm(tf: Any, **changes: Any) -> Any:
    sizes = {"head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True, "rms_norm_eps": 1e-5}
    return tf.GlmForCausalLM(tf.GlmConfig(**{**SIZES, **sizes, **changes}))


# name in the table -> a function of the transformers module that makes the model
MODELS: dict[str, Callable[[Any], Any]] = {
    "llama2": lambda tf: _llama(tf, num_key_value_heads=4),
    "llama3": lambda tf: _llama(tf, rope_theta=500000.0),
    "llama3_1": lambda tf: _llama(tf, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
    "llama3_2_tied": lambda tf: _llama(tf, rope_scaling={**LLAMA3_ROPE, "factor": 32.0}, tie_word_embeddings=True),
    "llama_head_dim": lambda tf: _llama(tf, head_dim=24),
    "llama_linear_rope": lambda tf: _llama(tf, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama_unread_fields": lambda tf: _llama(tf, **UNREAD),
    "llama_tiny": lambda tf: _llama(  # the shape of pretrain_llm.py's built-in recipe
        tf,
        vocab_size=384,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
    ),
    "codellama": lambda tf: _llama(tf, num_key_value_heads=4, rope_theta=1000000.0, rms_norm_eps=1e-5),
    "mistral": lambda tf: tf.MistralForCausalLM(tf.MistralConfig(**SIZES, head_dim=24, sliding_window=None)),
    "mistral_window": lambda tf: tf.MistralForCausalLM(tf.MistralConfig(**SIZES, sliding_window=16)),
    "mistral_linear_rope": lambda tf: tf.MistralForCausalLM(tf.MistralConfig(**SIZES, rope_scaling=LINEAR)),
    "mixtral_linear_rope": lambda tf: tf.MixtralForCausalLM(
        tf.MixtralConfig(**SIZES, num_local_experts=4, rope_scaling=LINEAR)
    ),
    "gemma2_linear_rope": lambda tf: _gemma2(tf, rope_scaling=LINEAR),
    "mixtral": lambda tf: tf.MixtralForCausalLM(tf.MixtralConfig(**SIZES, num_local_experts=4)),
    "qwen2": lambda tf: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SIZES)),
    "qwen2_5_tied": lambda tf: tf.Qwen2ForCausalLM(tf.Qwen2Config(**{**SIZES, "tie_word_embeddings": True})),
    "qwen3": lambda tf: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SIZES, head_dim=32)),
    "qwen3_moe": lambda tf: _qwen3_moe(tf, norm_topk_prob=True),
    "qwen3_moe_unnormed": lambda tf: _qwen3_moe(tf, norm_topk_prob=False),
    "gemma": lambda tf: tf.GemmaForCausalLM(tf.GemmaConfig(**{**SIZES, "tie_word_embeddings": True}, head_dim=32)),
    "gemma2": lambda tf: _gemma2(tf),
    "gemma2_long": lambda tf: _gemma2(tf, sliding_window=48),
    "gemma3": lambda tf: _gemma3(tf),
    "gemma3_linear_rope": lambda tf: _gemma3(
        tf, rope_scaling={"rope_type": "linear", "factor": 8.0}, query_pre_attn_scalar=21
    ),
    "nemotron": lambda tf: tf.NemotronForCausalLM(tf.NemotronConfig(**SIZES, head_dim=32)),
    "phi3": lambda tf: tf.Phi3ForCausalLM(tf.Phi3Config(**SIZES)),
    "phi3_window": lambda tf: tf.Phi3ForCausalLM(tf.Phi3Config(**SIZES, sliding_window=16)),
    "gpt_oss": _gpt_oss,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v2_yarn": lambda tf: _deepseek_v2(tf, rope_scaling={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}),
    "deepseek_v2_groups": lambda tf: _deepseek_v2(tf, **GROUPS),
    "deepseek_v3": _deepseek_v3,
    "deepseek_v3_one_group": lambda tf: _deepseek_v3(tf, **ONE_GROUP, routed_scaling_factor=2.446),
    "deepseek_v3_yarn": lambda tf: _deepseek_v3(tf, rope_scaling=YARN),
    "starcoder": lambda tf: _starcoder(tf),
    "starcoder_untied": lambda tf: _starcoder(tf, tie_word_embeddings=False),
    "starcoder2": lambda tf: tf.Starcoder2ForCausalLM(tf.Starcoder2Config(**SIZES)),
    "starcoder2_dropout": lambda tf: tf.Starcoder2ForCausalLM(tf.Starcoder2Config(**SIZES, **DROPOUTS)),
}
# made as models of transformers' own, then dressed as folders whose code comes with them
MODELS |= {
    "baichuan": lambda tf: _llama(tf, num_key_value_heads=4),
    "chatglm": lambda tf: _glm(tf),
    "chatglm_glm4": lambda tf: _glm(tf, num_attention_heads=8, rope_theta=5000000.0),
}
OWN_CODE: dict[str, Callable[[Path], None]] = {
    "baichuan": own_code_models.as_baichuan,
    "baichuan_raw": lambda folder: own_code_models.as_baichuan(folder, unit=False),
    "chatglm": own_code_models.as_chatglm,
    "chatglm_glm4": lambda folder: own_code_models.as_chatglm(
        folder, rope_ratio=500, num_hidden_layers=2, vocab_size=SIZES["vocab_size"], eos_token_id=[1, 2]
    ),
}
EXACT = list(MODELS)  # those that come back as they went
MODELS["baichuan_raw"] = MODELS["baichuan"]
MODELS["llama_scratch"] = lambda tf: _llama(tf, vocab_size=TOKENIZER_SIZE)
MODELS["deepseek_v3_groups"] = lambda tf: _deepseek_v3(tf, topk_group=3, num_experts_per_tok=3)
WITH_IMAGES = {"gemma3_images": _gemma3_of_images, "mistral3_images": _mistral3}
MODELS |= WITH_IMAGES
MODELS["llama_bias"] = lambda tf: _llama(tf, attention_bias=True, mlp_bias=True)
TEXT = [
    "def add(a, b):\n    return a + b\n",
    "The quick brown fox jumps over the lazy dog. " * 3,
    "0123456789 " * 4,
] * 4


def make(name: str, folder: Path, dtype: str = "bfloat16") -> Path:
    """Save the model `name`, and a small tokenizer, to `folder`."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = MODELS[name](transformers)
    with torch.no_grad():
        for parameter, values in model.named_parameters():
            if values.dim() == 1:
                values.normal_(
                    mean=1.0
                    if parameter.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
                    else 0.0,
                    std=0.3,
                )
            else:
                values.normal_(std=0.15)
        for buffer, values in model.named_buffers():
            if buffer.endswith("e_score_correction_bias"):
                # a score below zero loses against the experts that transformers masks: they score 0
                values.uniform_(0.0, 0.6)
    model = model.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    model.save_pretrained(folder)
    if name in OWN_CODE:
        OWN_CODE[name](folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE of a few hundred tokens, in the files that transformers writes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_SIZE,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)
