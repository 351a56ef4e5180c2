"""NeMo 2.7.3: importers and exporters between Hugging Face and NeMo.

They name parameters as Transformer Engine's layers do (the norm is part of the linear layer behind it). The layers built without
it have the norm as a module of its own, and experts one by one. On disk a NeMo checkpoint has the names of Transformer Engine in
both cases, because megatron-core maps them when it saves: so a checkpoint made on a CPU loads on a GPU.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from typing import Any

# Transformer Engine's name (a pattern) -> the local layer's name. A * stands for a layer's or an expert's number.
LOCAL_NAMES = (
    (r"self_attention\.linear_qkv\.layer_norm_(weight|bias)", r"input_layernorm.\1"),
    (r"mlp\.linear_fc1\.layer_norm_(weight|bias)", r"pre_mlp_layernorm.\1"),
    (r"self_attention\.linear_q_up_proj\.layer_norm_weight", "self_attention.q_layernorm.weight"),
    (r"self_attention\.linear_kv_up_proj\.layer_norm_weight", "self_attention.kv_layernorm.weight"),
    (r"mlp\.experts\.linear_fc([12])\.(weight|bias)\*$", r"mlp.experts.local_experts.*.linear_fc\1.\2"),
)


def local_name(key: str, parameters: list[str]) -> str:
    """The key as this model spells it: renamed only where the renamed key fits one of its parameters."""
    for pattern, replacement in LOCAL_NAMES:
        renamed = re.sub(pattern, replacement, key)
        fits = re.compile(re.escape(renamed).replace(r"\*", ".*")).fullmatch
        if renamed != key and any(fits(name) for name in parameters):
            key = renamed
    return key


def _rename(keys: Any, rename: Callable[[str], str]) -> Any:
    """Rename in a key, or in a tuple, list or dict of keys, as StateDictTransform takes them."""
    if isinstance(keys, str):
        return rename(keys)
    if isinstance(keys, dict):
        return {name: _rename(value, rename) for name, value in keys.items()}
    if isinstance(keys, tuple | list):
        return type(keys)(_rename(key, rename) for key in keys)
    return keys


def _megatron_parameters(*models: Any) -> list[str]:
    """The decoder parameters of whichever of the two models is Megatron's (Hugging Face has none that start with `decoder.`)."""
    states = (getattr(model, "module", model).state_dict() for model in models if hasattr(model, "state_dict"))
    return [name for state in states for name in state if name.startswith("decoder.")]


def local_parameter_names(original: Any) -> Any:
    @functools.wraps(original)
    def apply_transforms(
        source: Any, target: Any, mapping: Any, transforms: Any = (), *args: Any, **kwargs: Any
    ) -> Any:
        parameters = _megatron_parameters(source, target)

        def rename(key: str) -> str:
            return local_name(key, parameters)

        renamed = []
        for transform in transforms or ():
            transform = copy.copy(transform)  # the original objects are module globals of the importers
            transform.source_key = _rename(transform.source_key, rename)
            transform.target_key = _rename(transform.target_key, rename)
            renamed.append(transform)
        mapping = {_rename(key, rename): _rename(value, rename) for key, value in mapping.items()}
        return original(source, target, mapping, renamed, *args, **kwargs)

    return apply_transforms


def seed_streams(original: Any) -> Any:
    def set_random_seed(seed_: int) -> None:
        from megatron.core import parallel_state, tensor_parallel

        original(seed_)
        tensor_parallel.model_parallel_cuda_manual_seed(seed_ + 100 * parallel_state.get_pipeline_model_parallel_rank())

    return set_random_seed


def tensors_stay(original: Any) -> Any:
    return lambda ckpt: ckpt
