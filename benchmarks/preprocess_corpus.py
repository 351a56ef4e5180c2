"""Build the corpus and the 131,072-entry tokenizer that benchmarks/preprocess.py measures with; nothing of it is committed.

    python benchmarks/preprocess_corpus.py OUT_DIR [--megabytes 120] [--vocab 131072]

Code and English are what this machine has anyway: the .py, .md, .rst and .txt files of the Python installation and its
site-packages, manual pages and /usr/share/doc. Chinese is drawn from the word list of the `jieba` package by its
frequencies where it is installed (pip install jieba), else from the common CJK characters. Documents are shuffled with a
fixed seed and cut at --megabytes of JSON lines; the same documents repeat when the machine has too little text.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

CHINESE_SHARE = 0.16  # of the bytes


def readable(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            return stream.read(400_000)
    except (OSError, UnicodeDecodeError, EOFError):
        return ""


def local_documents(rng: random.Random) -> Iterator[str]:
    """Texts of this machine's own files, in random order."""
    roots = [
        Path(sysconfig.get_path("stdlib")),
        Path("/usr/share/doc"),
        Path("/usr/share/man"),
        Path("/usr/share/perl"),
    ]
    roots.append(Path(sysconfig.get_path("purelib")))
    endings = (".py", ".md", ".rst", ".txt", ".1.gz", ".3.gz", ".8.gz", ".pod", ".html", ".pyi", ".h", ".hpp", ".gz")
    files = sorted(
        {p for root in roots if root.is_dir() for p in root.rglob("*") if p.name.endswith(endings) and p.is_file()}
    )
    rng.shuffle(files)
    for path in files:
        text = readable(path)
        if len(text) > 100:
            yield text


def chinese_documents(rng: random.Random) -> Iterator[str]:
    """Endless documents of Chinese words, 200 to 4,000 words long."""
    try:
        import jieba

        with (Path(jieba.__file__).parent / "dict.txt").open(encoding="utf-8") as stream:
            entries = [line.split(" ") for line in stream]
        words, weights = [e[0] for e in entries], [int(e[1]) for e in entries]
    except ImportError:
        words = [chr(c) for c in range(0x4E00, 0x4E00 + 6000)]
        weights = [1_000_000 // (rank + 5) for rank in range(6000)]
    marks = ["，", "，", "。", "。\n", "；", "、", "！", "「", "」", "：", " 2025 年 "]
    while True:
        chosen = rng.choices(words, weights, k=rng.randint(200, 4000))
        yield "".join(word + (rng.choice(marks) if rng.random() < 0.12 else "") for word in chosen)


def write_corpus(path: Path, megabytes: float, seed: int = 7) -> None:
    """JSON lines with a `text` and a `meta` key, `megabytes` * 1e6 bytes in all."""
    rng = random.Random(seed)
    goal, size, chinese_size, count = int(megabytes * 1e6), 0, 0, 0
    chinese, local = chinese_documents(rng), local_documents(rng)
    with path.open("wb") as out:
        while size < goal:
            if chinese_size <= CHINESE_SHARE * size:
                text, is_chinese = next(chinese), True
            else:
                text, is_chinese = next(local, ""), False
                if not text:
                    local = local_documents(rng)
                    continue
            line = json.dumps({"text": text, "meta": {"n": count}}, ensure_ascii=rng.random() < 0.2).encode() + b"\n"
            out.write(line)
            size += len(line)
            chinese_size += len(line) if is_chinese else 0
            count += 1
    print(f"{path}: {size / 1e6:.1f} MB, {count} documents, {chinese_size / 1e6:.1f} MB of it Chinese")


def train_tokenizer(folder: Path, vocab: int, seed: int = 11) -> None:
    """A byte-level BPE with the digit and newline handling of today's 128k+ vocabularies, as a Hugging Face folder."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(seed)

    def texts(megabytes: int = 90) -> Iterator[str]:
        size, chinese, local = 0, chinese_documents(rng), local_documents(rng)
        while size < megabytes * 1_000_000:
            text = next(chinese) if rng.random() < 0.2 else next(local, "")
            size += len(text) + 1
            yield text

    tokenizer.train_from_iterator(texts(), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "model_max_length": 32768}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    print(f"{folder}: {tokenizer.get_vocab_size()} entries")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=120)
    parser.add_argument("--vocab", type=int, default=131_072)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_corpus(args.out / "corpus.jsonl", args.megabytes)
    if not (args.out / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(args.out / "tokenizer", args.vocab)
    return None


if __name__ == "__main__":
    sys.exit(main())
