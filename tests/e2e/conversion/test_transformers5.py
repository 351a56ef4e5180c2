"""Folders that transformers 5 wrote: its config.json and its logits (transformers5.json) against what is made of them here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.conversion.report import NAME
from nemo_workflow.models.families import by_model_type
from nemo_workflow.models.families.transformers5 import normal
from tests.conversion import make_transformers5 as v5
from tests.conversion import tiny_models as tiny
from tests.e2e.conversion.test_families import same_tensors

WRITTEN: dict[str, Any] = json.loads(v5.FILE.read_text())


@pytest.mark.e2e
@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_of_transformers_5(name: str, tmp_path: Path) -> None:
    """Computes what version 5 computed, and comes back word for word."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    entry = WRITTEN[name]
    family = by_model_type(entry["config"]["model_type"])
    assert family is not None
    config = CONFIG_MAPPING[family.model_type].from_dict(normal(entry["config"], family))
    v5.save(AutoModelForCausalLM.from_config(config), tmp_path / "hf")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", config=config, torch_dtype=torch.float32, attn_implementation="eager"
    )
    assert v5.logits(loaded) == pytest.approx(entry["logits"], abs=2e-4)
    for file in ("config", "generation_config"):
        (tmp_path / "hf" / f"{file}.json").write_text(json.dumps(entry[file]))
    tiny.save_tokenizer(tmp_path / "hf")
    import_main(["--source", str(tmp_path / "hf"), "--output-path", str(tmp_path / "nemo")])
    export_main(["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back")])
    for side in ("nemo", "back"):
        assert json.loads((tmp_path / side / NAME).read_text())["verified"]
    for file in ("config", "generation_config"):
        assert json.loads((tmp_path / "back" / f"{file}.json").read_text()) == entry[file]
    same_tensors(tmp_path / "hf", tmp_path / "back")
