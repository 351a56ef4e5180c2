"""`python -m nemo_workflow.dataset join`: pairs of any maker's as one, byte for byte as megatron-core's builder joins them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.data.indexed_dataset import read_pair
from nemo_workflow.preprocess.inspect_dataset import check_pair, main
from tests.preprocess.helpers import pair_bytes, write_jsonl
from tests.preprocess.tokenizer_makers import training_texts

ADD_INDEX = """
import sys
import numpy, torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder, DType
out, *prefixes = sys.argv[1:]
dtype = IndexedDataset(prefixes[0]).index.dtype
# a maker of documents with several sequences, and of one without any
made = IndexedDatasetBuilder(prefixes[0] + "-more.bin", dtype=dtype)
for lengths in ([3, 2], [], [1], [4, 4, 4]):
    made.add_document(torch.arange(sum(lengths)), lengths) if lengths else made.end_document()
made.finalize(prefixes[0] + "-more.idx")
prefixes.append(prefixes[0] + "-more")
builder = IndexedDatasetBuilder(out + ".bin", dtype=dtype)
for prefix in prefixes:
    builder.add_index(prefix)
builder.finalize(out + ".idx")
"""


def pair(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


@pytest.mark.e2e
@pytest.mark.parametrize("tokenizer", ["byte_bpe", "byte_bpe-large"])
def test_as_megatrons_builder_joins(tokenizer, preprocess, tokenizers_dir, tmp_path):
    """In processes of its own: this one may hold NeMo, beside whose threads a fork may crash."""

    def go(*arguments, out="out"):
        place = ("--tokenizer", tokenizers_dir / tokenizer, "--output-dir", tmp_path / out, "--workers", 2)
        return preprocess(*place, *arguments).code

    texts = training_texts(20, seed=1)
    for name, part in (("a", [*texts[:9], "", "x"]), ("b", texts[9:])):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", part)
    assert go("--input-dir", tmp_path / "in") == 0
    a, b = (tmp_path / f"out/preprocessed/{name}_text_document" for name in "ab")
    subprocess.run([sys.executable, "-W", "ignore", "-c", ADD_INDEX, tmp_path / "theirs", a, b], check=True)
    assert main(["join", str(tmp_path / "ours"), str(a), f"{b}.idx", f"{a}-more"]) == 0
    assert pair(tmp_path / "ours") == pair(tmp_path / "theirs")
    assert check_pair(read_pair(tmp_path / "ours")).empty == 1 + 1
    assert go("--input-dir", tmp_path / "in", "--join", out="joined") == 0
    assert main(["join", str(tmp_path / "two"), str(a), str(b)]) == 0
    assert pair(tmp_path / "two") == pair_bytes(tmp_path / "joined", "in")
