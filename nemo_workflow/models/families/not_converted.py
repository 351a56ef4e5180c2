"""Models that aren't converted, and why."""

from __future__ import annotations

from nemo_workflow.models.families import FAMILIES
from nemo_workflow.models.families.base import Config
from nemo_workflow.models.families.wrappers import WRAPPERS

# NeMo's other models with a converter of NeMo's, and why they aren't converted here
NOT_CONVERTED = {
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
    "bert": "BertModel",
    "mamba2": "MambaModel",
    "nemotron-nas": "LlamaNemotronModel",
    "nemotron_h": "MambaModel",
    "t5": "T5Model",
}
# models of images or sound whose text part is no family of ours
OTHER_TEXT = "it is a model of more than text, and its text part is no model that is converted"
LLAMA4 = (
    "its text part's layers are Transformer Engine's alone in NeMo, so nothing that runs without a GPU can prove it; on GPUs"
    " NeMo's own llm.import_ckpt imports it, and -M llama4_e16 or llama4_e128 with --nemo-model starts from what that writes"
)


def refused(model_class: str, name: str) -> str | None:
    """Why a NeMo model isn't converted; None where it is. `name` is that of its configuration class or its recipe.

    NeMo has Llama 4's text part in the class of the other Llamas.
    """
    if name.lower().startswith("llama4"):
        return LLAMA4
    if model_class in {family.model_class for family in FAMILIES}:
        return None
    return NOT_CONVERTED.get(model_class, "NeMo has no converter for it")


def why_not(raw: Config) -> str:
    """Why the model of a config.json isn't converted."""
    model_type = str(raw.get("model_type"))
    if model_type.startswith("llama4"):
        return LLAMA4
    if model_type in NOT_CONVERTED_TYPES:
        return NOT_CONVERTED[NOT_CONVERTED_TYPES[model_type]]
    if raw.get("model_type") is None:
        return "config.json names no model_type, from which the architecture is known"
    if {"text_config", "vision_config", "audio_config"} & set(raw):
        return (
            OTHER_TEXT
            if raw.get("model_type") not in WRAPPERS
            else "it is a model of more than text, and lacks its text_config"
        )
    known = ", ".join(sorted(family.model_type for family in FAMILIES))
    return f"NeMo 2.7.3 has no model that it imports it to; these are converted: {known}"
