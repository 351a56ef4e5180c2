"""Folders that transformers 5 wrote: its config.json and its logits (transformers5.json) against what is made of them here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.conversion import config_fields, inputs
from nemo_workflow.models.families import FAMILIES, by_model_type
from nemo_workflow.models.families.transformers5 import respelled
from nemo_workflow.utils.errors import Refusal
from tests.conversion import make_transformers5 as v5

WRITTEN: dict[str, Any] = json.loads(v5.FILE.read_text())


def test_every_family_has_a_folder_of_transformers_5() -> None:
    types = {entry["config"]["model_type"] for entry in WRITTEN.values()}
    assert types == {
        family.model_type for family in FAMILIES if not family.reference
    }  # which transformers 5 doesn't have


# --- config.json alone ------------------------------------------------------------------------------------------------
def folder(tmp_path: Path, name: str, **changes: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(WRITTEN[name]["config"] | changes))
    return tmp_path


def nemo_fields(place: Path) -> dict[str, Any]:
    family, hf = inputs.read_hf(place)
    fields, losses = config_fields.to_nemo(hf, family)
    assert not losses
    return fields


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("llama_theta", "rotary_base", 500000.0),
        ("llama_llama3", "scale_factor", 8.0),
        ("llama_linear", "seq_len_interpolation_factor", 4.0),
        ("phi3_partial", "rotary_percent", 0.5),
        ("nemotron_partial", "rotary_percent", 0.25),
        ("qwen3_moe", "num_moe_experts", 6),
        ("gemma3_by_layer", "rotary_base", (20000.0, 500000.0)),
        ("gemma3_by_layer", "rope_scaling_factor", 8.0),
        ("gpt_oss", "yarn_rotary_scaling_factor", 32.0),
    ],
)
def test_what_version_5_says_reaches_nemo(name: str, field: str, value: Any, tmp_path: Path) -> None:
    assert nemo_fields(folder(tmp_path, name))[field] == value


PLAIN = {"rope_theta": 1e4, "rope_type": "default"}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama_theta", {"rope_parameters": {**PLAIN, "mrope_section": [1]}}, "rope_parameters.mrope_section: no rule"),
        ("llama_theta", {"rope_parameters": {**PLAIN, "rope_type": "linear", "factor": 2.0, "odd": 1}}, "odd: no rule"),
        ("llama_theta", {"rope_theta": 1e6}, "rope_parameters and rope_theta differ"),
        ("llama_theta", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "differ"),
        ("llama_theta", {"rope_parameters": "default"}, "or null, is expected"),
        (
            "llama_theta",
            {"rope_parameters": {"full_attention": PLAIN, "other": PLAIN}},
            "rope_parameters.other: no rule",
        ),
        (
            "llama_theta",
            {"rope_parameters": {"full_attention": PLAIN, "sliding_attention": {**PLAIN, "rope_theta": 5e5}}},
            "the same rotary positions in all layers",
        ),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": PLAIN,
                    "sliding_attention": {**PLAIN, "rope_type": "linear", "factor": 2.0},
                }
            },
            "only plain rotary",
        ),
        ("qwen3_moe", {"num_experts": 8}, "num_local_experts and num_experts differ"),
    ],
)
def test_what_no_rule_knows_is_refused_by_name(name: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        inputs.read_hf(folder(tmp_path, name, **changes))
    assert said in str(caught.value)


def test_a_partial_rotation_that_nemo_lacks_is_no_silence(tmp_path: Path) -> None:
    half = {**PLAIN, "partial_rotary_factor": 0.5}
    family, hf = inputs.read_hf(folder(tmp_path, "llama_plain", rope_parameters=half))
    assert [name for name, _ in config_fields.to_nemo(hf, family)[1]] == ["partial_rotary_factor"]


@pytest.mark.parametrize("part", [None, 1.0])
def test_whole_rotation_spelled_out_is_no_loss(part: float | None, tmp_path: Path) -> None:
    nemo_fields(folder(tmp_path, "llama_plain", rope_parameters={**PLAIN, "partial_rotary_factor": part}))


def test_both_words_for_the_same_are_taken(tmp_path: Path) -> None:
    assert nemo_fields(folder(tmp_path, "llama_theta", rope_theta=5e5))["rotary_base"] == 5e5


def test_a_theta_inside_rope_scaling_counts(tmp_path: Path) -> None:
    """What version 5 reads there, and version 4 passes over."""
    config = {name: value for name, value in WRITTEN["llama_plain"]["config"].items() if name != "rope_parameters"}
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": scaling}))
    fields = nemo_fields(tmp_path)
    assert fields["rotary_base"] == 5e5 and fields["seq_len_interpolation_factor"] == 4.0


def test_a_change_after_training_is_said_in_words_that_both_versions_read() -> None:
    llama, origin = by_model_type("llama"), WRITTEN["llama_llama3"]["config"]
    assert llama is not None
    written = respelled({"rope_theta": 1e6}, origin, llama)
    assert "rope_parameters" not in written and written["rope_theta"] == 1e6
    assert written["rope_scaling"]["factor"] == 8.0
    moe, origin = by_model_type("qwen3_moe"), WRITTEN["qwen3_moe"]["config"]
    assert moe is not None
    assert respelled({"num_experts": 12}, origin, moe)["num_local_experts"] == 12
