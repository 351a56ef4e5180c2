"""Rotary positions and windows in the words that config.json files have for them: carried, or refused for what they are."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_workflow.conversion.config_fields import complete, to_nemo
from nemo_workflow.conversion.folder_checks import check_ranges
from nemo_workflow.models.families import FAMILIES
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.wrappers import DEFAULTS, SIZES, text_part
from nemo_workflow.utils.errors import Refusal
from tests.conversion.test_tensor_shapes import config

NAMED = {family.name: family for family in FAMILIES}
ROTARY = [family for family in FAMILIES if family.name != "starcoder"]
PLAIN = [family for family in ROTARY if "seq_len_interpolation_factor" in family.special_nemo]


def losses(family: Family, **changes: Any) -> list[str]:
    return [name for name, _ in to_nemo(config(family, **changes), family)[1]]


@pytest.mark.parametrize("words", [{"rope_type": "default"}, {"type": "default"}, None])
@pytest.mark.parametrize("family", [f for f in ROTARY if f.name != "gpt_oss"], ids=lambda family: family.name)
def test_no_scaling_may_be_said(family: Family, words: Config | None) -> None:
    assert "rope_scaling" not in losses(family, rope_scaling=words)


@pytest.mark.parametrize("family", PLAIN, ids=lambda family: family.name)
def test_linear_scaling_goes_there_and_back(family: Family) -> None:
    fields, lost = to_nemo(config(family, rope_scaling={"type": "linear", "factor": 2.0}), family)
    assert not lost and fields["seq_len_interpolation_factor"] == 2.0
    back = family.special_back({"window_size": None, **fields})
    assert back["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope"])
@pytest.mark.parametrize("family", PLAIN, ids=lambda family: family.name)
def test_another_scaling_is_named(family: Family, kind: str) -> None:
    _, lost = to_nemo(config(family, rope_scaling={"type": kind, "factor": 2.0}), family)
    assert ("rope_scaling", f"NeMo's model has no {kind!r} rope scaling") in lost


def test_the_scaling_of_gpt_oss_is_transformers_default_only_where_nothing_is_said() -> None:
    family = NAMED["gpt_oss"]
    said = config(family)
    del said["rope_scaling"]
    fields, lost = to_nemo(said, family)
    assert not lost and fields["yarn_rotary_scaling_factor"] == 32.0
    assert fields["yarn_correction_range_round_to_int"] is False
    assert "rope_scaling" in losses(family, rope_scaling=None) and "rope_scaling" in losses(
        family, rope_scaling={"type": "default"}
    )
    fields, lost = to_nemo(config(family, rope_scaling={"type": "yarn", "factor": 2.0, "beta_fast": None}), family)
    assert not lost and fields["yarn_correction_range_round_to_int"] is True and fields["yarn_beta_fast"] == 32.0
    assert fields["yarn_original_max_position_embeddings"] == 32  # max_position_embeddings


@pytest.mark.parametrize(
    ("scaling", "mscale", "lost"),
    [({}, 1.0, False), ({"mscale": 0.7}, 1.0, False), ({"mscale": 0.7, "mscale_all_dim": 0.7}, 0.7, False),
     ({"mscale": 0, "mscale_all_dim": 0.7}, 0, True)],
)  # fmt: skip
def test_mscale_counts_with_mscale_all_dim_only(scaling: Config, mscale: float, lost: bool) -> None:
    family = NAMED["deepseek_v3"]
    fields, losses = to_nemo(config(family, rope_scaling={"type": "yarn", "factor": 2.0, **scaling}), family)
    assert fields["mscale"] == mscale and fields["original_max_position_embeddings"] == 32
    assert bool([name for name, _ in losses if name == "rope_scaling"]) == lost


@pytest.mark.parametrize(
    ("changes", "taken"),
    [({"sliding_window": 8, "max_window_layers": 2}, True), ({"sliding_window": None}, True),
     ({"sliding_window": 8, "max_window_layers": 1}, False), ({"sliding_window": 8, "layer_types": ["full_attention"] * 2}, True),
     ({"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}, False)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3_moe"])
def test_a_window_counts_where_a_layer_has_it(name: str, changes: Config, taken: bool) -> None:
    assert ("use_sliding_window" in losses(NAMED[name], use_sliding_window=True, **changes)) != taken


def test_layers_with_a_window_that_is_not_there_contradict() -> None:
    with pytest.raises(ValueError, match="layer_types names layers with a window"):
        losses(NAMED["qwen2"], layer_types=["full_attention", "sliding_attention"])


def test_gemma_3_may_have_its_global_layers_at_another_distance() -> None:
    types = ["sliding_attention", "full_attention"]
    fields, lost = to_nemo(config(NAMED["gemma3"], layer_types=types), NAMED["gemma3"])
    assert not lost and fields["interleaved_attn_pattern"] == (1, 1)
    assert losses(NAMED["gemma3"], layer_types=types[::-1]) == ["layer_types"]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [("qwen3_moe", {"num_experts_per_tok": 5}, "num_experts_per_tok 5 of 4 experts"),
     ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok 5 of 4 experts"),
     ("phi3", {"resid_pdrop": -0.1}, "resid_pdrop is -0.1; a rate"), ("starcoder2", {"embedding_dropout": 2}, "is 2; a rate"),
     ("qwen3", {"layer_types": ["full_attention"]}, "one for each of 2 layers"),
     ("gemma3", {"rope_local_base_freq": -1}, "rope_local_base_freq is -1; a number above 0"),
     ("deepseek_v3", {"n_group": 3}, "4 experts in n_group 3 groups"),
     ("deepseek_v2", {"n_group": 2, "topk_group": 3}, "of which topk_group 3 are chosen")],
)  # fmt: skip
def test_what_no_model_computes_with_is_refused(name: str, changes: Config, said: str, tmp_path: Any) -> None:
    with pytest.raises(Refusal, match=said):
        check_ranges(config(NAMED[name], **changes), NAMED[name], tmp_path / "config.json")


@pytest.mark.parametrize("name", ["gpt_oss", "gemma3"])
def test_local_layers_need_a_window(name: str) -> None:
    with pytest.raises(ValueError, match="sliding_window is null"):
        losses(NAMED[name], sliding_window=None)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("deepseek_v3", "scoring_func", "softmax"), ("deepseek_v2", "scoring_func", "sigmoid"),
     ("deepseek_v3", "topk_method", "greedy"), ("deepseek_v2", "moe_layer_freq", 2)],
)  # fmt: skip
def test_another_routing_of_deepseeks_is_refused_by_name(name: str, field: str, value: Any) -> None:
    """transformers passes over them; the code that came with the models reads them."""
    assert losses(NAMED[name], **{field: value}) == [field]


# --- what a text_config leaves out ------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("model_type", DEFAULTS)
def test_the_sizes_of_a_text_config_are_transformers_own(model_type: str) -> None:
    from transformers import CONFIG_MAPPING

    own = CONFIG_MAPPING[model_type]().to_dict()
    assert [value or own["num_attention_heads"] for value in DEFAULTS[model_type]] == [own[name] for name in SIZES]


def test_a_text_config_says_what_differs_only() -> None:
    part = text_part({"model_type": "llava", "text_config": {"model_type": "mistral", "vocab_size": 64}})
    full = complete(part, NAMED["mistral"])
    assert (full["vocab_size"], full["hidden_size"], full["num_key_value_heads"], full["head_dim"]) == (
        64,
        4096,
        8,
        128,
    )
