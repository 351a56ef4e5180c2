"""--split and the parts of a pair: Megatron's own rounding, from the bytes of an .idx."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_workflow.data.indexed_dataset import read_pair
from nemo_workflow.data.splits import Part, parse_split, parts_of
from tests.places import write_pair


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("900,50,50", (0.9, 0.05, 0.05)),
        (" 8 , 1 , 1 ", (0.8, 0.1, 0.1)),
        ("1,0,0", (1.0, 0.0, 0.0)),
        (".5,.25,0.25", (0.5, 0.25, 0.25)),
        ("1.,1,2", (0.25, 0.25, 0.5)),
    ],
)
def test_a_split_is_made_of_shares(text: str, shares: tuple[float, ...]) -> None:
    assert parse_split(text) == pytest.approx(shares)


@pytest.mark.parametrize("text", ["", "1", "1,1", "1,1,1,1", "0,1,1", "0,0,0", "-1,1,1", "1,-1,1", "9e2,1,1", "a,b,c", "1,,1", "٣,1,1"])  # fmt: skip
def test_no_split(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_split(text)
    assert str(raised.value) == text


@pytest.mark.parametrize(("tokens", "samples"), [(0, 0), (1, 0), (8, 0), (9, 1), (16, 1), (17, 2)])
def test_the_next_token_of_the_last_sample_must_be_there(tokens: int, samples: int) -> None:
    assert Part(1.0, 1, tokens).samples(8) == samples


@pytest.mark.parametrize(
    ("lengths", "shares", "sequences", "tokens"),
    [
        ([10, 20, 30, 40], (0.5, 0.25, 0.25), (2, 1, 1), (30, 30, 40)),
        ([10, 20, 30, 40], (1.0, 0.0, 0.0), (4, 0, 0), (100, 0, 0)),
        ([10, 20, 30], (0.9, 0.05, 0.05), (3, 0, 0), (60, 0, 0)),  # 2.7 and 2.85 of 3 are 3
        ([5] * 7, (0.5, 0.25, 0.25), (4, 1, 2), (20, 5, 10)),  # 3.5 is 4, 5.25 is 5: Python's and Megatron's round
        ([5], (0.4, 0.3, 0.3), (0, 1, 0), (0, 5, 0)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_sequences_are_cut_at_rounded_shares(
    tmp_path: Path, dtype: str, lengths: list[int], shares: tuple[float, ...], sequences: tuple[int, ...], tokens: tuple[int, ...]
) -> None:  # fmt: skip
    """A prefix with a dot, as names of data have it."""
    parts = parts_of(read_pair(write_pair(tmp_path / "web.v1", lengths, dtype)), shares)
    assert [part.share for part in parts] == list(shares)
    assert [part.sequences for part in parts] == list(sequences) and [part.tokens for part in parts] == list(tokens)
    assert all(type(part.tokens) is int for part in parts)
