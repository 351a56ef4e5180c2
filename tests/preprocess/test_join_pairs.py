"""`python -m nemo_workflow.dataset join`: pairs of any maker's as one, byte for byte as megatron-core's builder joins them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.preprocess.inspect_dataset import main
from nemo_workflow.utils.errors import Refusal
from tests.places import write_pair
from tests.preprocess.helpers import ROOT


def pair(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def test_what_is_written_is_whole_or_not_there(tmp_path, capsys):
    a, b = write_pair(tmp_path / "in" / "a", [3, 4], largest=5), write_pair(tmp_path / "in" / "b", [5], largest=7)
    assert main(["join", str(tmp_path / "out"), str(tmp_path / "in")]) == 0
    assert "2 pairs, 3 documents, 12 tokens" in capsys.readouterr().out
    said = json.loads((tmp_path / "out.json").read_text())
    assert (said["tokens"], said["documents"], said["largest_token_id"]) == (12, 3, 7)
    assert said["joined_from"] == [str(a), str(b)]
    before = pair(tmp_path / "out")
    with pytest.raises(Refusal, match="exists already; --overwrite replaces it"):
        main(["join", str(tmp_path / "out"), str(a)])
    assert pair(tmp_path / "out") == before
    assert main(["join", str(tmp_path / "out"), str(b), "--overwrite"]) == 0
    assert pair(tmp_path / "out") == pair(b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.bin", "out.idx", "out.json"]


def test_every_problem_is_named(tmp_path):
    a, b = write_pair(tmp_path / "a", [3, 4]), write_pair(tmp_path / "b", [5], dtype="int32")
    idx = Path(f"{write_pair(tmp_path / 'c', [3, 4])}.idx")
    idx.write_bytes(idx.read_bytes()[:34] + bytes(4) + idx.read_bytes()[38:])
    with pytest.raises(Refusal) as caught:
        main(["join", str(a), *map(str, (a, a, b, tmp_path / "c", tmp_path / "none"))])
    text = "\n".join(caught.value.problems)
    for said in ("a: named twice", "a: would be read and overwritten", "c.idx: sequence 0 has no tokens", "none: no such folder or pair",
                 "b holds int32; preprocess them with one tokenizer"):  # fmt: skip
        assert said in text


def test_pairs_of_two_tokenizers(tmp_path):
    for name in "ab":
        write_pair(tmp_path / name, [3])
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"tokens": 3, "tokenizer_sha256": name, "tokenizer_path": f"/t/{name}"})
        )
    with pytest.raises(
        Refusal, match=r"different tokenizers \(/t/a in .*/a, /t/b in .*/b\), whose ids mean other texts"
    ):
        main(["join", str(tmp_path / "out"), str(tmp_path / "a"), str(tmp_path / "b")])
    for name in "ab":  # one tokenizer that was saved again
        said = {"tokens": 3, "tokenizer_sha256": name, "tokenizer_content": "the same"}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    assert main(["join", str(tmp_path / "out"), str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["tokenizer_content"] == "the same"
    done = subprocess.run(
        [sys.executable, "-m", "nemo_workflow.dataset", "join", tmp_path / "out"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith(
        "python -m nemo_workflow.dataset: error: DIR_OR_PREFIX is required"
    )
