"""A long text cut in pieces has the tokens of the whole; tasks cover a file exactly."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from nemo_workflow.preprocess import inputs, split_long_text
from tests.preprocess.tokenizer_makers import MAKERS, WORDS, training_texts


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(split_long_text, "PIECE", 1000)
    monkeypatch.setattr(split_long_text, "WINDOW", 100)


def plain_encode(folder: Path):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", MAKERS)
def test_pieces_have_the_tokens_of_the_whole(kind, tokenizers_dir, small_pieces):
    encode = plain_encode(tokenizers_dir / kind)
    rng = random.Random(kind)
    for seed in range(4):
        text = "\n".join(training_texts(25, seed))
        parts, at = [], 0
        while at < len(text):
            size = rng.randint(1, 3000)
            parts.append(text[at : at + size])
            at += size
        cut = list(split_long_text.pieces(parts, encode))
        assert len(cut) > 5
        assert [token for piece in cut for token in encode(piece)] == encode(text)


def test_chinese_is_cut(tokenizers_dir, small_pieces):
    encode = plain_encode(tokenizers_dir / "byte_bpe")
    words = [word for word in WORDS if word and "\u4e00" <= word[0] <= "\u9fff"]
    rng = random.Random(3)
    text = "".join(rng.choice(words) + rng.choice(["", "，", "。"]) for _ in range(6000))
    cut = list(split_long_text.pieces([text], encode))
    assert len(cut) > 3
    assert [token for piece in cut for token in encode(piece)] == encode(text)


@pytest.mark.parametrize("text", ["a" * 30_000, "\n" * 30_000, " x" * 15_000, "a\n\nb" * 9000, ""])
def test_text_without_a_safe_place_stays_right(text, tokenizers_dir, small_pieces):
    encode = plain_encode(tokenizers_dir / "gpt2_bpe")
    assert [token for piece in split_long_text.pieces([text], encode) for token in encode(piece)] == encode(text)


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_whole_lines(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "GIANT", 5000)
    rng = random.Random(seed)
    lengths = rng.choices([0, 1, 50, 900, 6000, 20_000], [2, 2, 20, 6, 1, 1], k=120)
    data = b"\n".join(rng.randbytes(n).replace(b"\n", b"x") for n in lengths) + rng.choice([b"", b"\n"])
    path = tmp_path / "file"
    path.write_bytes(data)
    ranges = list(inputs.line_ranges(path, 1000))
    assert b"".join(data[a:b] for a, b in ranges) == data
    for a, b in ranges:
        assert b == len(data) or data[b - 1 : b] == b"\n"
        assert b - a <= 5000 or data[a:b].rstrip(b"\n").count(b"\n") == 0  # a giant is alone
