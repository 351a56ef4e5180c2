"""Models whose code comes with their weights and is never run: what their config.json must say, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.conversion import config_fields, inputs
from nemo_workflow.conversion.command import import_parser
from nemo_workflow.conversion.import_job import checked
from nemo_workflow.models import pretrained
from nemo_workflow.models.families import by_model_type
from nemo_workflow.utils.errors import Refusal

CONFIGS = json.loads((Path(__file__).parents[2] / "conversion" / "real_configs.json").read_text())
BAICHUAN, CHATGLM, GLM4 = (CONFIGS[name] for name in ("Baichuan2-7B", "chatglm3-6b", "glm-4-9b (chatglm)"))


def read(config: dict[str, Any], folder: Path) -> tuple[Any, Any, Any]:
    """(completed config.json, NeMo's fields, names of what would be lost)."""
    (folder / "config.json").write_text(json.dumps(config))
    family, hf = inputs.read_hf(folder)
    nemo, losses = config_fields.to_nemo(hf, family)
    return hf, nemo, [name for name, _ in losses]


def test_baichuans_7b_is_taken(tmp_path: Path) -> None:
    _, nemo, lost = read(BAICHUAN, tmp_path)
    assert not lost
    assert (nemo["num_layers"], nemo["num_query_groups"], nemo["kv_channels"]) == (32, 32, 128)
    assert nemo["position_embedding_type"] == "rope"


@pytest.mark.parametrize("change", [{"num_hidden_layers": 40}, {"hidden_size": 5120}, {"max_position_embeddings": ...}])
def test_baichuans_13b_is_refused_by_name(change: dict[str, Any], tmp_path: Path) -> None:
    config = {name: value for name, value in {**BAICHUAN, **change}.items() if value is not ...}
    with pytest.raises(Refusal, match=r"13B.*ALiBi.*the 7B is converted"):
        read(config, tmp_path)


@pytest.mark.parametrize("base", [BAICHUAN, CHATGLM], ids=["baichuan", "chatglm"])
def test_a_field_that_no_rule_knows_may_be_read_by_their_code(base: dict[str, Any], tmp_path: Path) -> None:
    """What transformers' models read says nothing of code that is not transformers'."""
    assert read({**base, "unsloth_fixed": True, "attention_kind": "linear"}, tmp_path)[2] == [
        "unsloth_fixed",
        "attention_kind",
    ]


def test_chatglm_is_taken(tmp_path: Path) -> None:
    hf, nemo, lost = read(CHATGLM, tmp_path)
    assert not lost
    assert (nemo["num_layers"], nemo["num_query_groups"], nemo["kv_channels"], nemo["ffn_hidden_size"]) == (
        28,
        2,
        128,
        13696,
    )
    assert (nemo["rotary_base"], nemo["seq_length"], nemo["vocab_size"]) == (10000, 8192, 65024)
    assert nemo["add_qkv_bias"] is True and hf["tie_word_embeddings"] is False


def test_glm_4_multiplies_its_rotary_base(tmp_path: Path) -> None:
    _, nemo, lost = read(GLM4, tmp_path)
    assert not lost and nemo["rotary_base"] == 5_000_000
    family = by_model_type("chatglm")
    assert family and family.special_back({"rotary_base": 5_000_000})["rope_ratio"] == 500


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"rope_ratio": 50}, ["rope_ratio"]),  # ChatGLM 2's code and ChatGLM 3's read it in two ways
        ({"multi_query_attention": ...}, ["multi_query_attention"]),  # false where nothing says otherwise
        ({"pre_seq_len": 128}, ["pre_seq_len"]),
        ({"quantization_bit": 4}, ["quantization_bit"]),
        ({"rmsnorm": False, "post_layer_norm": False}, ["rmsnorm", "post_layer_norm"]),
        ({"rope_ratio": None, "pre_seq_len": None, "quantization_bit": 0}, []),
    ],
)
def test_what_nemos_chatglm_cant_compute(change: dict[str, Any], lost: list[str], tmp_path: Path) -> None:
    config = {name: value for name, value in {**CHATGLM, **change}.items() if value is not ...}
    assert read(config, tmp_path)[2] == lost


@pytest.mark.parametrize("ratio", [0, -1, "500", [500], True, float("nan"), {}])
def test_a_rope_ratio_that_is_no_number_above_zero(ratio: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**GLM4, "rope_ratio": ratio}))
    args = import_parser().parse_args(["--source", str(tmp_path), "--dry-run"])
    with pytest.raises(Refusal, match=r"rope_ratio is .*a number above 0 is expected"):
        checked(tmp_path, args, config_alone=True)


def test_heads_are_named_as_the_file_names_them(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="num_attention_heads 32 is not a multiple of multi_query_group_num 3"):
        read({**CHATGLM, "multi_query_group_num": 3}, tmp_path)
    without = {name: value for name, value in CHATGLM.items() if name != "multi_query_group_num"}
    assert read(without, tmp_path)[1]["num_query_groups"] == 1  # what its code takes then


def test_biases_that_a_config_doesnt_name_are_none(tmp_path: Path) -> None:
    _, nemo, _ = read({name: value for name, value in CHATGLM.items() if name != "add_qkv_bias"}, tmp_path)
    assert nemo["add_qkv_bias"] is False


def test_the_first_chatglm_is_refused_by_name(tmp_path: Path) -> None:
    first = {"architectures": ["ChatGLMModel"], "model_type": "chatglm", "inner_hidden_size": 16384, "num_layers": 28}
    with pytest.raises(Refusal, match="ChatGLM 1 is not converted: it has two-dimensional positions"):
        read(first, tmp_path)


@pytest.mark.parametrize("name", ["num_hidden_layers", "vocab_size"])
def test_two_names_of_a_field_that_differ(name: str, tmp_path: Path) -> None:
    """Some folders have both names; which of two values the model's code reads, nothing says."""
    read({**CHATGLM, "num_hidden_layers": 28, "vocab_size": 65024}, tmp_path)
    with pytest.raises(Refusal, match=f"and {name} differ"):
        read({**CHATGLM, name: 64}, tmp_path)


@pytest.mark.parametrize(("config", "recipe"), [(BAICHUAN, "baichuan2_7b"), (CHATGLM, "chatglm3_6b")])
def test_their_recipes_are_found(config: dict[str, Any], recipe: str) -> None:
    assert pretrained.recipe_of_hf(config) == recipe
    with pytest.raises(Refusal, match=f"recipes of its family: {recipe}"):
        pretrained.recipe_of_hf({**config, "hidden_size": 1024})


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "gpt2", "n_layer": 12, "n_embd": 768}, "model_type gpt2, 12 layers, hidden size 768"),
        ({"model_type": "mpt", "n_layers": 24, "d_model": 2048}, "model_type mpt, 24 layers, hidden size 2048"),
        ({"model_type": "other", "width": 7}, "model_type other"),
        ({}, "model_type unknown"),
    ],
)
def test_the_size_of_a_model_without_a_recipe_is_told_by_its_own_names(config: dict[str, Any], told: str) -> None:
    with pytest.raises(Refusal, match=rf"the model of --hf-model-id \({told}\) fits no recipe exactly"):
        pretrained.recipe_of_hf(config)
