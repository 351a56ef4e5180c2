"""What lies beside a checkpoint's weights. What is exported of it: tests/e2e/conversion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.later import later

hf_config = later("nemo_workflow.conversion.hf_config")


def test_each_file_beside_a_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "generation_config.json"
    (tmp_path / name).write_text(json.dumps({"top_p": 0.9, "custom_generate": "org/code", "auto_map": {"A": "code.A"}}))
    read, calls = hf_config.read_json, list[Path]()
    monkeypatch.setattr("nemo_workflow.conversion.hf_config.read_json", lambda path: calls.append(path) or read(path))
    beside = hf_config.Beside(None, tmp_path)
    kept = [beside.read(name) for _ in range(3)]
    assert kept[0] == kept[2] != beside.said(name) and kept[0]["top_p"] == 0.9 and "auto_map" not in kept[0]
    assert calls == [tmp_path / name] and len(beside.notes) == 1
    assert beside.read("config.json") == beside.said("config.json") == {}
