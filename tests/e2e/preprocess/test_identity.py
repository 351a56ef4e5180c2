"""The output is, byte for byte, that of megatron-core's IndexedDatasetBuilder fed by AutoTokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_workflow.preprocess.engines import FastokensEngine, TokenizersEngine
from nemo_workflow.preprocess.messages import Lines, Place
from nemo_workflow.preprocess.pair_writer import PairWriter
from nemo_workflow.preprocess.pool import Child
from nemo_workflow.preprocess.startup import load_fastokens
from nemo_workflow.preprocess.tokenizer import TokenizerSpec, examine
from nemo_workflow.preprocess.worker import Encoder, Job
from tests.preprocess.helpers import pair_bytes, write_jsonl
from tests.preprocess.tokenizer_makers import MAKERS, WORDS, training_texts

pytestmark = pytest.mark.e2e

SPECIAL_TEXTS = ["<|endoftext|>", "</s>", "<s>", "<unk>", "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>user\n"]
TRICKY = [
    "",
    " ",
    "\n",
    "\r\n \t",
    "  two  ",
    "\u00a0\u3000\u2028",
    "e\u0301\u0323",
    "🇩🇪👩‍👩‍👧",
    "\u07fd",
    "\x00",
    "a" * 700,
    *SPECIAL_TEXTS,
]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("size", ["", "-large"])
@pytest.mark.parametrize("eod", [True, False])
def test_command_matches_megatron(kind, size, eod, tokenizers_dir, reference, preprocess, tmp_path):
    texts = training_texts(40, seed=99) + TRICKY + [f"x {special} y" for special in SPECIAL_TEXTS]
    write_jsonl(tmp_path / "in" / "docs.jsonl", texts)
    done = preprocess(
        "--hf-tokenizer", tokenizers_dir / f"{kind}{size}", "--data-prefix", "docs", "--input-dir", tmp_path / "in",
        "--output-dir", tmp_path / "out", "--append-eod" if eod else "--no-append-eod", "--workers", 2,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert pair_bytes(tmp_path / "out", "docs") == reference(tokenizers_dir / f"{kind}{size}", texts, append_eod=eod)
    figures = json.loads((tmp_path / "out/preprocessed/docs_text_document.json").read_text())
    assert figures["dtype"] == ("int32" if size else "uint16")
    assert figures["vocabulary_size"] == reference.answer["vocab_size"]
    assert figures["eod_id"] == reference.answer["eod"]
    assert figures["engine"] == ("tokenizers" if kind == "unigram" else "fastokens"), figures["engine_reason"]


def test_slow_tokenizer(tokenizers_dir, reference, preprocess, tmp_path):
    texts = training_texts(4, seed=1) + TRICKY
    write_jsonl(tmp_path / "docs.jsonl", texts)
    done = preprocess(
        "--tokenizer", tokenizers_dir / "slow", "--input", tmp_path / "docs.jsonl", "--output-dir", tmp_path
    )
    assert done.code == 0, done.err
    assert "engine transformers (slow): the tokenizer exists in Python only" in done.err
    assert "so it comes twice; --no-append-eod" in done.err
    assert pair_bytes(tmp_path, "docs") == reference(tokenizers_dir / "slow", texts, slow=True)


def test_without_special_tokens(tokenizers_dir, reference, preprocess, tmp_path):
    texts = training_texts(5, seed=1) + TRICKY
    write_jsonl(tmp_path / "docs.jsonl", texts)
    for kind in ("tiktoken_bpe", "byte_fallback_bpe"):
        done = preprocess(
            "--tokenizer",
            tokenizers_dir / kind,
            "--input",
            tmp_path / "docs.jsonl",
            "--output-dir",
            tmp_path / kind,
            "--no-special-tokens",
        )
        assert done.code == 0, done.err
        expected = reference(tokenizers_dir / kind, texts, special=False)
        assert pair_bytes(tmp_path / kind, "docs") == expected
        assert expected != reference(tokenizers_dir / kind, texts)


# --- any text at all -----------------------------------------------------------------------------------------------

ALPHABETS = [
    st.characters(codec="utf-8"),
    st.sampled_from("abcXYZ 0123456789.,;:'\"(){}[]<>|/\\_-+=\n\t"),
    st.sampled_from("的一是不了人我在有他這為之大來以個中上們，。、；：「」！？\u3000\n"),
    st.characters(min_codepoint=0x0600, max_codepoint=0x06FF),
    st.characters(min_codepoint=0x0900, max_codepoint=0x0D7F),
    st.characters(min_codepoint=0x0E00, max_codepoint=0x0EFF),
    st.characters(min_codepoint=0x3040, max_codepoint=0x30FF),
    st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),
    st.characters(min_codepoint=0x0300, max_codepoint=0x036F),
    st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF),
    st.sampled_from(" \t\n\r\v\f\u0085\u00a0\u1680\u2000\u2009\u200b\u200d\u2028\u2029\u202f\u205f\u3000\ufeff"),
]
RUNS = st.one_of(*[st.text(alphabet, max_size=30) for alphabet in ALPHABETS], st.sampled_from(SPECIAL_TEXTS + WORDS))
DOCUMENTS = st.lists(st.lists(RUNS, max_size=8).map("".join), max_size=6)
# A combining character that tokenizers 0.22's and fastokens' Unicode tables know as different may not be composed alike.


@pytest.fixture(scope="module")
def encoders(tokenizers_dir, tmp_path_factory):
    """Per tokenizer: its spec, and an encoder for each engine that takes it."""
    spool = tmp_path_factory.mktemp("spool")
    made: dict[str, list[Encoder]] = {}
    for kind in MAKERS:
        spec = spec_of(tokenizers_dir / kind)
        job = Job(spec, ("text",), True, True, spool)
        made[kind] = [Encoder(job, TokenizersEngine(spec))]
        if kind != "unigram":
            made[kind].append(Encoder(job, FastokensEngine(load_fastokens(spec.read_json()), spec.split_special)))
    return made


def encode_pair(encoder: Encoder, texts: list[str], folder: Path) -> tuple[bytes, bytes]:
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    writer = PairWriter(folder, "pair", encoder.job.spec.dtype)
    result = encoder(Lines(0, len(data), data))
    assert not result.rejects
    encoder(Place([writer.add(result.tokens[0])]))
    writer.finish()
    return writer.bin_path.read_bytes(), writer.idx_path.read_bytes()


@pytest.mark.parametrize("kind", MAKERS)
def test_any_documents_match_megatron(kind, encoders, reference, tokenizers_dir, tmp_path):
    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(DOCUMENTS)
    def check(texts: list[str]) -> None:
        expected = reference(tokenizers_dir / kind, texts)
        for encoder in encoders[kind]:
            assert encode_pair(encoder, texts, tmp_path) == expected, encoder.engine.name

    check()


# --- the tokenizer as AutoTokenizer would have it --------------------------------------------------------------------


def spec_of(folder: Path) -> TokenizerSpec:
    """In a child: it may import transformers without torch, which must not reach other tests."""
    return Child(lambda: examine("it", folder, None, False)[0]).result()


def with_config(folder: Path, base: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    if "config.json" in changes:
        (folder / "config.json").write_text(json.dumps(changes.pop("config.json")))
    config = json.loads((base / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


VARIANTS = {
    "llama with eos": ("byte_fallback_bpe", {"add_eos_token": True}),
    "llama without bos": ("byte_fallback_bpe", {"add_bos_token": False}),
    "llama by default tokens": ("byte_fallback_bpe", {"bos_token": None, "eos_token": None, "unk_token": None}),
    "llama class on tiktoken": ("tiktoken_bpe", {"tokenizer_class": "LlamaTokenizerFast", "unk_token": "<|eot_id|>"}),
    "extra added token": ("byte_bpe", {"additional_special_tokens": ["<|new|>"]}),
    "pad token not in the file": ("byte_bpe", {"pad_token": "<|pad|>"}),
    "added_tokens_decoder": (
        "byte_bpe",
        {"added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True, "normalized": False, "lstrip": True, "rstrip": False, "single_word": False}}},
    ),
    "eos as an object": ("gpt2_bpe", {"eos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "special": True}}),
    "prefix space": ("gpt2_bpe", {"add_prefix_space": True}),
    "no tokenizer class": ("gpt2_bpe", {"tokenizer_class": None, "config.json": {"model_type": "gpt2"}}),
    "split special": ("byte_bpe", {"split_special_tokens": True}),
    "another class": ("byte_bpe", {"tokenizer_class": "BloomTokenizerFast"}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_loaded_as_transformers_loads_it(variant, tokenizers_dir, reference, tmp_path):
    kind, changes = VARIANTS[variant]
    folder = with_config(tmp_path / "tokenizer", tokenizers_dir / kind, **changes)
    spec = spec_of(folder)
    texts = training_texts(3, seed=2) + TRICKY + ["a <|new|> b <|pad|>", " lead"]
    expected = reference(folder, texts)
    assert (spec.vocab_size, spec.eod) == (reference.answer["vocab_size"], reference.answer["eod"])
    engines = [TokenizersEngine(spec), FastokensEngine(load_fastokens(spec.read_json()), spec.split_special)]
    for engine in engines:
        encoder = Encoder(Job(spec, ("text",), True, True, tmp_path), engine)
        assert encode_pair(encoder, texts, tmp_path) == expected, engine.name


def test_truncation_and_padding_in_the_file_are_not_applied(tokenizers_dir, reference, tmp_path):
    folder = with_config(tmp_path / "tokenizer", tokenizers_dir / "byte_bpe")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    raw["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    spec = spec_of(folder)
    texts = training_texts(3, seed=2)
    for engine in (TokenizersEngine(spec), FastokensEngine(load_fastokens(spec.read_json()), spec.split_special)):
        encoder = Encoder(Job(spec, ("text",), True, True, tmp_path), engine)
        assert encode_pair(encoder, texts, tmp_path) == reference(folder, texts), engine.name


def test_ids_beyond_the_vocabulary_size_get_a_wide_dtype():
    """megatron-core would wrap them round: a vocabulary with holes whose largest id does not fit uint16."""
    spec = TokenizerSpec("x", Path(), True, 0, "e", vocab_size=60_000, largest_id=70_000, sha256="")
    assert spec.dtype == "int32"
    assert np.dtype(TokenizerSpec("x", Path(), True, 0, "e", 65_499, 65_498, "").dtype) == np.uint16
    assert np.dtype(TokenizerSpec("x", Path(), True, 0, "e", 65_500, 65_499, "").dtype) == np.int32
