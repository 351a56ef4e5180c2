"""Every family, and how one is found."""

from __future__ import annotations

from nemo_workflow.models.families import deepseek, dense, gemma, moe, starcoder
from nemo_workflow.models.families.base import Family

FAMILIES: tuple[Family, ...] = (
    dense.LLAMA,
    dense.MISTRAL,
    dense.QWEN2,
    dense.QWEN3,
    dense.GEMMA,
    gemma.GEMMA2,
    gemma.GEMMA3,
    dense.NEMOTRON,
    dense.PHI3,
    dense.STARCODER2,
    starcoder.STARCODER,
    moe.MIXTRAL,
    moe.QWEN3_MOE,
    moe.GPT_OSS,
    deepseek.DEEPSEEK_V2,
    deepseek.DEEPSEEK_V3,
)

# NeMo's other models with a converter of NeMo's, and why they aren't converted here
REMOTE = (
    "its Hugging Face model is Python code that comes with the weights, and code from a model's folder is not run here"
)
NOT_CONVERTED = {
    "Baichuan2Model": REMOTE + "; its output layer is normalised at each step, which NeMo's model doesn't do",
    "ChatGLMModel": REMOTE,
    "HyenaModel": "Evo 2 has no Hugging Face architecture",
    "LlamaEmbeddingModel": "an encoder for embeddings, not a causal language model",
    "LlamaNemotronModel": "its layers differ from one another (heterogeneous blocks) and its Hugging Face model is Python code that comes with the weights",
    "MambaModel": "Mamba 2 and Nemotron-H need mamba-ssm's CUDA kernels, and NeMo guesses the size from the path's name",
    "ReRankerModel": "an encoder that ranks, not a causal language model",
    "T5Model": "an encoder and decoder, not a causal language model",
    "HuggingFaceBertModel": "an encoder, not a causal language model",
    "BertEmbeddingModel": "an encoder for embeddings, not a causal language model",
    "BertModel": "an encoder, not a causal language model",
    "GPTModel": "NeMo's plain GPT has no Hugging Face architecture",
}
# model_type of a config.json -> NeMo's model class, for those
NOT_CONVERTED_TYPES = {
    "baichuan": "Baichuan2Model",
    "bert": "BertModel",
    "chatglm": "ChatGLMModel",
    "mamba2": "MambaModel",
    "nemotron-nas": "LlamaNemotronModel",
    "nemotron_h": "MambaModel",
    "t5": "T5Model",
}


def by_model_type(model_type: str) -> Family | None:
    """The family of a config.json's model_type."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)
