"""Does an engine give the Hugging Face tokenizer's ids? Told on a sample: a smoke test, no proof. Imports no numpy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_workflow.preprocess.tokenizer import TokenizerSpec, examine

if TYPE_CHECKING:
    from nemo_workflow.preprocess.engines import Engine

# Texts on which tokenizers are known to differ: composition, runs of white space, digits, joiners, scripts, controls.
PROBES = (
    "",
    " ",
    "\n\n  \t\r\n x",
    "a  b   c    d\u00a0\u3000e\u200b",
    "e\u0301 \u07fd \u1e9b\u0323 \u212b \ufb01 \uff21",
    "I'm you'RE it's 12345678 3.14159 0x1F 1,000,000",
    "世界你好，語言模型。訓練 資料\n日本語テスト 한국어 문장",
    "العالم يعمل भाषा ไทย Ελληνικά עברית данные",
    "🙂👩\u200d👩\u200d👧🇩🇪 \U0001d518 \x00\x07\x1b",
    "def f(x):\n    return x ** 2  # ok\n\n\n\t\tif x != y: pass",
    "a" * 300 + "!?" * 100 + " " * 100 + "\n" * 50,
)


def reference_ids(
    args: argparse.Namespace, folder: Path, texts: list[str]
) -> tuple[TokenizerSpec, list[str], list[list[int]]]:
    """The spec, the texts to check with, and the Hugging Face tokenizer's ids of each. To be run in a child."""
    spec, reference = examine(args.tokenizer, folder, args.eod_token, args.trust_remote_code)
    if not spec.fast:
        return spec, [], []
    texts = [*texts, *PROBES, *(f"a{token}b {token} \n{token}" for token in spec.added[:20])]
    return spec, texts, [reference.encode_ids(text, args.special_tokens) for text in texts]


def first_difference(engine: Engine, texts: list[str], expected: list[list[int]], special: bool) -> str | None:
    """The first text on which `engine` differs, in words, or None."""
    ids, lengths = engine.encode(texts, special)
    at = 0
    for text, wanted, length in zip(texts, expected, lengths.tolist(), strict=True):
        got = ids[at : at + length].tolist()
        at += length
        if got != wanted:
            place = next(
                (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted))
            )
            return (
                f"token {place + 1} of {text[:60]!r}: {got[place : place + 3]} instead of {wanted[place : place + 3]}"
            )
    return None
