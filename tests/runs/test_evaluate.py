"""The two tools for an exported model, evaluate and sample, where the model or the text is no good."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nemo_workflow.runs import sample
from nemo_workflow.utils.errors import Refusal


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(sys, "argv", ["sample", "--hf-model", str(tmp_path), text])
    with pytest.raises(Refusal, match="TEXT is empty"):
        sample.main()
