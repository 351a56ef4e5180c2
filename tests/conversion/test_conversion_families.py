"""Every family, Hugging Face -> NeMo -> Hugging Face: the same bits, the same config, logits compared both ways."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny_models as tiny

from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.conversion.report import NAME

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("name", tiny.MODELS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    source = tiny.make(name, tmp_path / "hf")
    import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo")])
    export_main(["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back")])
    reports = [json.loads((tmp_path / side / NAME).read_text()) for side in ("nemo", "back")]
    for report in reports:
        assert report["verified"]
        assert report["logits"]["argmax_agreement"] == 1.0
    same_tensors(source, tmp_path / "back")
    same_files(source, tmp_path / "back")
    note(name, reports)


def same_tensors(first: Path, second: Path) -> None:
    """Compared by another reader than the one under test."""
    import torch
    from safetensors.torch import load_file

    ours, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype and value.shape == theirs[key].shape, key
        assert torch.equal(value.view(torch.uint8), theirs[key].view(torch.uint8)), key


def same_files(first: Path, second: Path) -> None:
    assert json.loads((first / "config.json").read_text()) == json.loads((second / "config.json").read_text())
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def note(name: str, reports: list[dict]) -> None:
    """Append a row for the table of docs/conversion.md, when a run asks for it (see benchmarks/conversion_table.py)."""
    if table := os.environ.get("CONVERSION_TABLE"):
        row = {"model": name, **reports[0]["model"], "logits": [report["logits"] for report in reports]}
        row["tensors"] = reports[0]["tensors"]["compared"]
        with Path(table).open("a") as stream:
            stream.write(json.dumps(row) + "\n")
