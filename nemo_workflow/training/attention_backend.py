"""Transformer Engine's NVTE_*_ATTN variables: a choice of the user's that Megatron takes for a contradiction.

Megatron sets all three for each model by its configuration's `attention_backend`, and fails on one that is set otherwise:
by the user's shell, or by another model that was built in this process before.
"""

from __future__ import annotations

import os
from typing import Any

# what each of Megatron's backends lets Transformer Engine use, as in its LanguageModule._set_attention_backend
ALLOWS = {
    "auto": {"NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN"},
    "fused": {"NVTE_FUSED_ATTN"},
    "flash": {"NVTE_FLASH_ATTN"},
    "unfused": {"NVTE_UNFUSED_ATTN"},
    "local": set(),
}


def follow_variables(config: Any) -> str | None:
    """Give `config` a backend that uses nothing the variables turn off, and take them out of the environment.

    Returns what is to be said about it, if the configuration's own backend couldn't stay.
    """
    off = {name for name in ALLOWS["auto"] if os.environ.get(name) == "0"}
    for name in ALLOWS["auto"]:
        os.environ.pop(name, None)
    own = getattr(config, "attention_backend", None)
    if own is None or not ALLOWS[own.name] & off:
        return None
    chosen = next(name for name, uses in ALLOWS.items() if not uses & off)
    config.attention_backend = type(own)[chosen]
    return f"attention: {chosen}, as {' and '.join(f'{name}=0' for name in sorted(off))} say"
