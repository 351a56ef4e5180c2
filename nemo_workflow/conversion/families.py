"""Every family, and how one is found."""

from __future__ import annotations

from nemo_workflow.conversion import deepseek_families, dense_families, gemma_families, moe_families
from nemo_workflow.conversion.family import Family

FAMILIES: tuple[Family, ...] = (
    dense_families.LLAMA,
    dense_families.MISTRAL,
    dense_families.QWEN2,
    dense_families.QWEN3,
    dense_families.GEMMA,
    gemma_families.GEMMA2,
    gemma_families.GEMMA3,
    dense_families.NEMOTRON,
    dense_families.PHI3,
    dense_families.STARCODER2,
    moe_families.MIXTRAL,
    moe_families.QWEN3_MOE,
    moe_families.GPT_OSS,
    deepseek_families.DEEPSEEK_V2,
    deepseek_families.DEEPSEEK_V3,
)


def by_model_type(model_type: str) -> Family | None:
    """The family of a config.json's model_type."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)
