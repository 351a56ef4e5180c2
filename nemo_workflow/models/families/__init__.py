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


def by_model_type(model_type: str) -> Family | None:
    """The family of a config.json's model_type."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)
