"""README's pipeline for every family that the conversion takes: import -> training -> export, the config is the source's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nemo_workflow.conversion import checks, supported
from nemo_workflow.conversion.nemo_context import family_of
from nemo_workflow.models.architecture import ARCHITECTURE
from nemo_workflow.models.families import FAMILIES, by_model_type
from nemo_workflow.models.pretrained import read_nemo_model
from nemo_workflow.utils.errors import Refusal
from tests.conversion import tiny_models as tiny
from tests.e2e.conversion import train_families

NAMES = [name for name in tiny.EXACT if name != "llama_tiny"]


def test_every_family_is_trained_here() -> None:
    """A family that is added without a tiny model, or without a recipe to train it by, is missing in the list above."""
    assert {family.name for family in FAMILIES} <= {re.sub(r"^llama\d.*", "llama", name) for name in NAMES}
    for name in NAMES:
        if not name.startswith(train_families.NO_RECIPE):
            assert train_families.recipe_of(name)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_a_conversion_carries_is_kept_by_training(family: object) -> None:
    """Every NeMo field that an import sets to what config.json says is taken from the checkpoint by a run."""
    carried = {rule.nemo for rule in family.fields} | family.special_nemo
    of_the_run = {"seq_length", "attention_dropout", "hidden_dropout", "moe_aux_loss_coeff"}
    assert carried - ARCHITECTURE <= of_the_run


# --- where the configuration's class lives ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "target",
    [
        "nemo.collections.llm.gpt.model.llama.Llama99Config",
        "nemo.collections.llm.gpt.nowhere.LlamaConfig",
        "os.system",
        "",
    ],
)
def test_a_configuration_that_nemo_lacks_is_refused_before_the_start(target: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, target)
    with pytest.raises(Refusal, match="has no configuration of that name"):
        read_nemo_model(str(folder))


@pytest.mark.parametrize(
    "name", ["llama.Llama31Config", "llama.Llama4Experts16Config", "qwen3.Qwen3MoEConfig", "deepseek.DeepSeekConfig"]
)
def test_a_configuration_is_found_where_its_model_lives(name: str, tmp_path: Path) -> None:
    assert read_nemo_model(str(checkpoint(tmp_path, f"nemo.collections.llm.gpt.model.{name}"))).config_class


def test_tuples_of_a_model_yaml_are_read(tmp_path: Path) -> None:
    """NeMo writes a window as a YAML tuple or as a list."""
    folder = checkpoint(tmp_path, "nemo.collections.llm.gpt.model.mistral.MistralConfig7B")
    with (folder / "context" / "model.yaml").open("a") as stream:
        stream.write("  window_size: !!python/tuple\n  - 15\n  - 0\n")
    assert read_nemo_model(str(folder)).sizes["window_size"] == [15, 0]


def checkpoint(folder: Path, target: str) -> Path:
    """A folder that looks like a NeMo 2 checkpoint from outside."""
    (folder / "weights").mkdir()
    metadata = b"ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81}(Vstate_dict_metadata\n}Vstorage_data\n}ub."
    (folder / "weights" / ".metadata").write_bytes(metadata)
    (folder / "context").mkdir()
    model = f"_target_: nemo.collections.llm.gpt.model.llama.LlamaModel\nconfig:\n  _target_: {target!r}\n"
    (folder / "context" / "model.yaml").write_text(model)
    return folder


# --- Llama 4, whose text part has the class of the other Llamas in NeMo ------------------------------------------------
@pytest.mark.parametrize("name", ["Llama4Config", "Llama4Experts128Config", "llama4_e16"])
def test_llama_4_is_refused_with_what_to_do_instead(name: str) -> None:
    state, why = supported.brief("LlamaModel", name)
    assert state == "refused" and "llm.import_ckpt" in why and "--nemo-model" in why
    assert supported.brief("LlamaModel", "Llama31Config") == ("trained and exported",)


def test_a_checkpoint_of_llama_4_is_not_exported_as_a_llama() -> None:
    config = {"_target_": "nemo.collections.llm.gpt.model.llama.Llama4Experts16Config", "num_moe_experts": 16}
    with pytest.raises(Refusal, match="Llama4Experts16Config is not converted: its text part"):
        family_of("LlamaModel", config)


def test_llama_4s_configuration_is_no_other_llamas() -> None:
    family = by_model_type("llama")
    assert family
    with pytest.raises(Refusal, match="Llama4Config: is not converted"):
        checks.config_class("Llama4Config", family, {}, {})
