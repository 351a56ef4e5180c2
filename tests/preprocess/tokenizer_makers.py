"""Small real tokenizers of every kind people pretrain with, trained here on generated text and saved as Hugging Face folders."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "model",
    "reads",
    "every",
    "document",
    "once",
    "and",
    "writes",
    "tokens",
    "to",
    "disk",
    "while",
    "a",
    "clock",
    "counts",
    "seconds",
    "données",
    "über",
    "straße",
    "мир",
    "работа",
    "يعمل",
    "العالم",
    "भाषा",
    "दुनिया",
    "世界",
    "語言",
    "模型",
    "訓練",
    "資料",
    "日本語",
    "テスト",
    "한국어",
    "문장",
    "def",
    "return",
    "self",
    "import",
    "None",
    "for",
    "while",
    "class",
    "print",
    "value",
    "index",
    "0",
    "1",
    "2",
    "42",
    "2025",
    "3.14",
    "{}",
    "[]",
    "()",
    "==",
    "!=",
    "->",
    "🙂",
    "🚀",
    "👩\u200d👩\u200d👧",
    "é",
    "ﬁ",
    "Å",
]


def training_texts(count: int = 600, seed: int = 5) -> list[str]:
    rng = random.Random(seed)
    breaks = [" ", " ", " ", " ", "\n", "\n\n", "  ", "\t", ". ", ", "]
    return ["".join(word + rng.choice(breaks) for word in rng.choices(WORDS, k=120)) for _ in range(count)]


LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def save(made: tuple[Any, dict[str, Any]], folder: Path, pad_to: int = 0) -> Path:
    """Write a Hugging Face folder; with `pad_to`, entries that no text reaches fill the vocabulary up to that size."""
    tokenizer, config = made
    folder.mkdir(parents=True)
    raw = json.loads(tokenizer.to_str())
    vocab = raw["model"]["vocab"]
    size, above = len(vocab), {token["id"] for token in raw["added_tokens"] if token["id"] >= len(vocab)}
    shift = max(0, pad_to - size - len(above))
    for new in range(size, size + shift):
        if isinstance(vocab, dict):
            vocab[f"\u0000unused{new}"] = new
        else:
            vocab.append([f"\u0000unused{new}", -100.0])
    for token in raw["added_tokens"]:  # the added tokens of a tiktoken lie above its vocabulary and stay there
        token["id"] += shift if token["id"] in above else 0
    for processor in (raw["post_processor"] or {}).get("processors", []):
        for special in processor.get("special_tokens", {}).values():
            special["ids"] = [id_ + shift if id_ in above else id_ for id_ in special["ids"]]
    (folder / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def byte_bpe() -> tuple[Any, dict[str, Any]]:
    """As Qwen has it: NFC, split by a pattern, byte-level BPE; no token around a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN.replace("{1,3}", "")), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return tokenizer, {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>"}


def gpt2_bpe() -> tuple[Any, dict[str, Any]]:
    """As GPT-2 has it: the ByteLevel pre-tokenizer's own pattern, no normalizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return tokenizer, {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}


def tiktoken_bpe() -> tuple[Any, dict[str, Any]]:
    """As Llama 3 has it: a converted tiktoken (whole words first, ignore_merges) with <|begin_of_text|> before each text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    begin = (names[0], tokenizer.token_to_id(names[0]))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[begin]),
        ]
    )
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": names[0], "eos_token": names[1]}
    return tokenizer, config


def unigram() -> tuple[Any, dict[str, Any]]:
    """SentencePiece's Unigram as T5 and XLNet have it: NFKC, Metaspace; </s> is the end of a document."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
    return tokenizer, config


def byte_fallback_bpe() -> tuple[Any, dict[str, Any]]:
    """SentencePiece's BPE with byte fallback as Llama 2 has it: no pre-tokenizer; <s> before each text (LlamaTokenizer adds it)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # only while training: words, not lines
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=80)
    tokenizer.train_from_iterator(training_texts(), trainer)
    tokenizer.pre_tokenizer = None
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
    }
    return tokenizer, config


MAKERS = {
    "byte_bpe": byte_bpe,
    "gpt2_bpe": gpt2_bpe,
    "tiktoken_bpe": tiktoken_bpe,
    "unigram": unigram,
    "byte_fallback_bpe": byte_fallback_bpe,
}
