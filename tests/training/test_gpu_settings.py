"""What is set beyond the stock recipe, on recipes that are plain objects: no NeMo here."""

from __future__ import annotations

import os
from enum import Enum
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.training import gpu_settings

pytestmark = pytest.mark.usefixtures("no_outside")


def silu() -> None: ...
def gelu() -> None: ...


LLAMA = {
    "cross_entropy_loss_fusion": True,
    "position_embedding_type": "rope",
    "rotary_percent": 1.0,
    "qk_layernorm": False,
    "rotary_interleaved": False,
    "apply_rope_fusion": True,
    "activation_func": silu,
    "gated_linear_unit": True,
    "bias_activation_fusion": True,
}


def applied(
    pipeline: int = 1, virtual: int = 1, context: int = 1, precision: str | None = None, **config: Any
) -> dict[str, Any]:
    recipe = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(**{**LLAMA, **config})))
    layout = SimpleNamespace(pipeline=pipeline, virtual_pipeline=virtual, context=context)
    done = gpu_settings.apply(recipe, SimpleNamespace(layout=layout, settings=Settings(precision=precision)))
    values = vars(recipe.model.config)
    return {field.rpartition(".")[2]: values[field.rpartition(".")[2]] for field in done}


def test_a_llama_gets_the_fused_loss_and_rotary() -> None:
    assert applied() == {"cross_entropy_fusion_impl": "te", "fused_single_qkv_rope": True}


@pytest.mark.parametrize(
    "config", [{"qk_layernorm": True}, {"rotary_percent": 0.5}, {"position_embedding_type": "yarn"}]
)
def test_queries_that_are_not_turned_whole_keep_their_own_way(config: dict[str, Any]) -> None:
    assert "fused_single_qkv_rope" not in applied(**config)


def test_a_qwen_gets_what_its_recipe_leaves_in_parts() -> None:
    found = applied(bias_activation_fusion=False, apply_rope_fusion=False)
    assert found["bias_activation_fusion"] is True
    assert found["apply_rope_fusion"] is True


@pytest.mark.parametrize(
    "config", [{"activation_func": gelu}, {"gated_linear_unit": False}, {"glu_linear_offset": 1.0}]
)
def test_another_activation_keeps_its_own_way(config: dict[str, Any]) -> None:
    assert "bias_activation_fusion" not in applied(bias_activation_fusion=False, **config)


@pytest.mark.parametrize("config", [{"multi_latent_attention": True}, {"rotary_interleaved": True}])
def test_another_rotary_embedding_keeps_its_own_way(config: dict[str, Any]) -> None:
    assert "apply_rope_fusion" not in applied(apply_rope_fusion=False, **config)


def test_layers_that_this_nemo_has_lost_are_made_as_every_other_recipe_makes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there: dict[str, object] = {}
    monkeypatch.setattr(gpu_settings, "find_spec", there.get)
    assert applied(use_transformer_engine_full_layer_spec=True)["use_transformer_engine_full_layer_spec"] is False
    assert "use_transformer_engine_full_layer_spec" not in applied()
    there[gpu_settings.FULL_LAYERS] = object()
    assert "use_transformer_engine_full_layer_spec" not in applied(use_transformer_engine_full_layer_spec=True)


def test_experts_do_without_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSeek's recipes turn it on for any Hopper GPU, and megatron-core fails without it."""
    there: dict[str, object] = {}
    monkeypatch.setattr(gpu_settings, "find_spec", there.get)

    def callback(name: str) -> SimpleNamespace:
        return SimpleNamespace(__fn_or_cls__=SimpleNamespace(__name__=name))

    def recipe(*names: str) -> SimpleNamespace:
        return SimpleNamespace(trainer=SimpleNamespace(callbacks=[callback(name) for name in names] or None))

    deepseek = recipe("TimingCallback", "DeepEPCallback")
    assert "all-to-all, as deep_ep isn't installed" in (gpu_settings.without_deep_ep(deepseek) or "")
    assert [one.__fn_or_cls__.__name__ for one in deepseek.trainer.callbacks] == ["TimingCallback"]
    assert gpu_settings.without_deep_ep(recipe()) is None
    there[gpu_settings.DEEP_EP] = object()
    assert gpu_settings.without_deep_ep(recipe("DeepEPCallback")) is None


def test_fp16_keeps_the_loss_in_fp32() -> None:
    assert "cross_entropy_fusion_impl" not in applied(precision="16-mixed")


def test_virtual_stages_overlap_their_transfers() -> None:
    """Batched sends with two stages go to one rank and can't be told apart."""
    found = applied(pipeline=2, virtual=2)
    assert found["overlap_p2p_comm"] is True
    assert found["batch_p2p_comm"] is False
    assert "overlap_p2p_comm" not in applied(pipeline=2)


class Backend(Enum):
    """As megatron-core's, which this test does without."""

    flash = 1
    fused = 2
    unfused = 3
    local = 4
    auto = 5


def test_a_recipe_that_allows_flash_attn_alone_may_take_another_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    present: set[str] = {"flash-attn-4"}  # not one that Transformer Engine knows

    def version(name: str) -> str:
        if name not in present:
            raise metadata.PackageNotFoundError(name)
        return "2.8.3"

    monkeypatch.setattr(metadata, "version", version)
    assert applied(attention_backend=Backend.flash)["attention_backend"] is Backend.auto
    assert "attention_backend" not in applied(attention_backend=Backend.fused)
    present.add("flash-attn")
    assert "attention_backend" not in applied(attention_backend=Backend.flash)


@pytest.mark.parametrize(
    ("own", "variables", "chosen"),
    [
        ("flash", {}, "flash"),
        ("flash", {"FLASH": "1", "FUSED": "1", "UNFUSED": "1"}, "flash"),  # left by a model that was built before
        ("auto", {"FLASH": "1", "FUSED": "0", "UNFUSED": "0"}, "flash"),
        ("auto", {"FLASH": "0"}, "fused"),
        ("auto", {"UNFUSED": "0"}, "fused"),
        ("flash", {"FLASH": "0", "FUSED": "0"}, "unfused"),
        ("fused", {"FLASH": "0", "FUSED": "0", "UNFUSED": "0"}, "local"),
    ],
)
def test_attention_follows_the_variables_that_megatron_would_fail_on(
    own: str, variables: dict[str, str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"NVTE_{name}_ATTN" for name in ("FLASH", "FUSED", "UNFUSED")]
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(f"NVTE_{name}_ATTN", value)
    config = SimpleNamespace(attention_backend=Backend[own])
    said = gpu_settings.follow_attention_variables(config)
    assert config.attention_backend is Backend[chosen]
    assert bool(said) == (own != chosen)
    assert not set(names) & set(os.environ)
