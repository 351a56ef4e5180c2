"""What we set beyond the stock recipe on a GPU, each with its reason and measured gain.

Gains are tokens/s of llama32_1b at 8192 tokens on one H100, from docs/performance.md. Everything here leaves the
numbers as they are up to rounding; what changes them has a flag of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from nemo_workflow.config.plan import Plan

# what each of Megatron's backends lets Transformer Engine use, as in its LanguageModule._set_attention_backend
ALLOWED_ATTENTION = {
    "auto": {"NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN"},
    "fused": {"NVTE_FUSED_ATTN"},
    "flash": {"NVTE_FLASH_ATTN"},
    "unfused": {"NVTE_UNFUSED_ATTN"},
    "local": set(),
}

FULL_LAYERS = "nemo.collections.nlp"
DEEP_EP = "deep_ep"


@dataclass(frozen=True)
class Setting:
    """A recipe field and the value that a GPU trains faster with."""

    field: str
    value: Any
    reason: str
    applies: Callable[[Any, Plan], bool] = lambda recipe, plan: True


def _plain_rotary(config: Any) -> bool:
    """Rotary embedding by halves, as Transformer Engine's kernels do it."""
    return (
        _value(config, "position_embedding_type") == "rope"
        and not _value(config, "multi_latent_attention")
        and not _value(config, "rotary_interleaved")
    )


def _decoder(recipe: Any, plan: Plan) -> bool:
    """A GPT-like model with rotary embeddings whose queries and keys go to attention as they are."""
    config = recipe.model.config
    return (
        _plain_rotary(config)
        and not _value(config, "qk_layernorm")
        and _value(config, "rotary_percent") in (None, 1.0)
        and plan.layout.context == 1
    )


def _fused_loss(recipe: Any, plan: Plan) -> bool:
    """Not in fp16, where the loss's gradient would be rounded before it is scaled up."""
    fp16 = plan.settings.precision == "16-mixed"
    return bool(_value(recipe.model.config, "cross_entropy_loss_fusion")) and not fp16


def _swiglu(recipe: Any, plan: Plan) -> bool:
    """An MLP with a plain SwiGLU that the recipe computes operation by operation."""
    config = recipe.model.config
    activation = _value(config, "activation_func")
    return (
        getattr(activation, "__name__", "") == "silu"
        and bool(_value(config, "gated_linear_unit"))
        and not _value(config, "bias_activation_fusion")
        and not _value(config, "use_te_activation_func")
        and not _value(config, "glu_linear_offset")
        and _value(config, "activation_func_clamp_value") is None
    )


def _separate_rotary(recipe: Any, plan: Plan) -> bool:
    """Rotary embedding that the recipe computes operation by operation."""
    config = recipe.model.config
    return _plain_rotary(config) and not _value(config, "apply_rope_fusion")


def _virtual_stages(recipe: Any, plan: Plan) -> bool:
    return plan.layout.pipeline > 1 and plan.layout.virtual_pipeline > 1


def _lost_layers(recipe: Any, plan: Plan) -> bool:
    """Transformer Engine's whole layers, of which NeMo 2.7 has the switch and no longer the module."""
    return (
        bool(_value(recipe.model.config, "use_transformer_engine_full_layer_spec")) and find_spec(FULL_LAYERS) is None
    )


SETTINGS = (
    Setting(
        "model.config.use_transformer_engine_full_layer_spec",
        False,
        reason="`gpt3_175b` failed at the import of nemo.collections.nlp; it gets the layers that every other recipe has",
        applies=_lost_layers,
    ),
    Setting(
        "model.config.cross_entropy_fusion_impl",
        "te",
        reason="the loss and its gradient in one buffer in place of the logits and two fp32 copies",
        # gain: 7 % at micro batch 2, and 15 GiB, which a larger micro batch uses: 3 % more
        applies=_fused_loss,
    ),
    Setting(
        "model.config.bias_activation_fusion",
        True,
        reason="SwiGLU in one kernel, where a recipe (Qwen, Mistral, Phi 3, Baichuan, ChatGLM) leaves it in four; two fewer tensors of the MLP's width are kept",
        # gain: 13 % with the rotary embedding's on Qwen2.5-0.5B, and 28.5 GiB at micro batch 16 (H200)
        applies=_swiglu,
    ),
    Setting(
        "model.config.apply_rope_fusion",
        True,
        reason="rotary embedding in Transformer Engine's kernel, where a recipe (the same, Gemma, Starcoder 2) leaves it in many",
        # gain: see the one above
        applies=_separate_rotary,
    ),
    Setting(
        "model.config.fused_single_qkv_rope",
        True,
        reason="rotary embedding on the joint QKV product: no split and no concatenation of its gradients",
        # gain: 0.4 %, and it is what backends/gpu/rotary.py needs
        applies=_decoder,
    ),
    Setting(
        "model.config.overlap_p2p_comm",
        True,
        reason="virtual stages send while they compute; with two stages the batched way is wrong: see below",
        # gain: PP2xVPP2 is 2.6 % faster than PP2 (two H200s)
        applies=_virtual_stages,
    ),
    Setting(
        "model.config.batch_p2p_comm",
        False,
        # the previous and the next stage are one rank there: two sends to it in a batch can't be told apart. Megatron-LM's
        # own argument check asks for the overlapped way then; NeMo's MegatronCommOverlapCallback sets both fields
        reason="needed by the overlapped way",
        # gain: not measured
        applies=_virtual_stages,
    ),
)
# Beside recipe fields: micro_batch.py (size by the memory plan), backends/gpu/weight_gradient.py (0.6 %),
# backends/gpu/output_layer.py (about 3 % with the two settings above at global batch 16), backends/gpu/activation.py and
# rotary.py (1.6 % together), backends/gpu/attention.py (4.3 % where flash-attn-4 is installed),
# step_clock.py (no wait a step).


def apply(recipe: Any, plan: Plan) -> list[str]:
    """Set every field that applies and that the recipe has; returns the fields set."""
    done = _open_attention(recipe)
    for setting in SETTINGS:
        *parents, last = setting.field.split(".")
        target = recipe
        for part in parents:
            target = getattr(target, part, None)
        if target is None or not setting.applies(recipe, plan):
            continue
        try:
            setattr(target, last, setting.value)
        except (AttributeError, TypeError):  # an older megatron-core, or a family without the field
            continue
        done.append(setting.field)
    return done


def _open_attention(recipe: Any) -> list[str]:
    """Let Transformer Engine take cuDNN's attention where a recipe allows none but flash-attn's, which isn't here.

    Gemma, Nemotron-H and Evo 2 do: "No dot product attention backend is available" at the first step (seen on an H200).
    """
    backend = _value(recipe.model.config, "attention_backend")
    if getattr(backend, "name", "") != "flash" or any(map(_installed, ("flash-attn", "flash-attn-3"))):
        return []
    recipe.model.config.attention_backend = type(backend).auto
    return ["model.config.attention_backend"]


def follow_attention_variables(config: Any) -> str | None:
    """Give `config` a backend that uses nothing that NVTE_*_ATTN turns off, and take these variables out of the environment.

    They are a user's choice that Megatron takes for a contradiction: it sets all three for each model by its configuration's
    `attention_backend`, and fails on one that is set otherwise, by the user's shell or by a model built before in this process.
    Returns what is to be said about it, if the configuration's own backend couldn't stay.
    """
    off = {name for name in ALLOWED_ATTENTION["auto"] if os.environ.get(name) == "0"}
    for name in ALLOWED_ATTENTION["auto"]:
        os.environ.pop(name, None)
    own = getattr(config, "attention_backend", None)
    if own is None or not ALLOWED_ATTENTION[own.name] & off:
        return None
    chosen = next(name for name, uses in ALLOWED_ATTENTION.items() if not uses & off)
    config.attention_backend = type(own)[chosen]
    return f"attention: {chosen}, as {' and '.join(f'{name}=0' for name in sorted(off))} say"


def without_deep_ep(recipe: Any) -> str | None:
    """Take NeMo's DeepEPCallback out where its package isn't installed; returns what is to be said about it.

    On any Ampere or Hopper GPU it turns on a dispatcher that megatron-core can't build without the package: "DeepEP is not
    installed". The recipes' own way of sending tokens to their experts is all-to-all.
    """
    callbacks = recipe.trainer.callbacks or []
    others = [one for one in callbacks if one.__fn_or_cls__.__name__ != "DeepEPCallback"]
    if len(others) == len(callbacks) or find_spec(DEEP_EP) is not None:
        return None
    recipe.trainer.callbacks = others
    return f"experts: tokens travel by all-to-all, as {DEEP_EP} isn't installed, which the recipe would use"


def _installed(distribution: str) -> bool:
    """As Transformer Engine asks; flash-attn-4 has a way of its own (backends/gpu/attention.py)."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _value(config: Any, name: str) -> Any:
    """A field's value, set or default, None where the class lacks it."""
    return getattr(config, name, None)
