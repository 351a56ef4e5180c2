"""Figures of one output pair: gathered while it is written, printed, and kept as JSON beside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from nemo_workflow.models.tokenizer_identity import OWN_END
from nemo_workflow.preprocess.messages import Tokens
from nemo_workflow.preprocess.tokenizer import TokenizerSpec
from nemo_workflow.utils.console import counted, human_bytes, human_count

LOOKED_AT = 64 << 20  # tokens of a pair among which the unknown ones are counted


class Tally:
    """Counts of one pair; lengths are in tokens, the end-of-document token included."""

    def __init__(self, spec: TokenizerSpec):
        self.spec = spec
        self.documents = self.empty = self.tokens = self.utf8_bytes = self.eod_inside = self.longest = 0
        self.by_power = np.zeros(32, np.int64)  # [k]: documents of 2^(k-1) <= length < 2^k
        self._seen = np.zeros((spec.largest_id + 8) // 8, np.uint8)

    def add(self, tokens: Tokens) -> None:
        lengths = np.frombuffer(tokens.lengths, np.int32)
        if not len(lengths):
            return
        self.documents += len(lengths)
        self.empty += int((lengths == 0).sum())
        self.tokens += int(lengths.sum(dtype=np.int64))
        self.longest = max(self.longest, int(lengths.max()))
        self.by_power += np.bincount(np.frexp(lengths)[1], minlength=32)[:32]  # frexp(0) has exponent 0
        self.utf8_bytes += tokens.utf8_bytes
        self.eod_inside += tokens.eod_inside
        seen = np.frombuffer(tokens.seen, np.uint8)[: len(self._seen)]
        self._seen[: len(seen)] |= seen

    def add_sums(self, utf8_bytes: int, eod_inside: int) -> None:
        """Counts that the tokens themselves do not tell."""
        self.utf8_bytes += utf8_bytes
        self.eod_inside += eod_inside

    @property
    def ids_used(self) -> int:
        return int(np.unpackbits(self._seen).sum())

    @property
    def largest_token_id(self) -> int | None:
        used = np.flatnonzero(np.unpackbits(self._seen))
        return int(used[-1]) if len(used) else None

    def share_unknown(self, bin_path: Path) -> float:
        """The share of the tokens, of the first ones of a long file, that stand for what the tokenizer has no entry for."""
        unknown = self.spec.unknown
        if unknown is None or not self.tokens or not np.unpackbits(self._seen)[unknown]:
            return 0.0
        ids = np.memmap(bin_path, self.spec.dtype, "r")[:LOOKED_AT]
        return float((ids == unknown).mean())

    def as_json(self) -> dict[str, Any]:
        split = {f"<{2**k}": int(count) for k, count in enumerate(self.by_power) if k and count}
        return {
            "documents": self.documents,
            "empty_documents": self.empty,
            "tokens": self.tokens,
            "bytes": self.utf8_bytes,
            "tokens_per_byte": round(self.tokens / self.utf8_bytes, 5) if self.utf8_bytes else None,
            "bytes_per_token": round(self.utf8_bytes / self.tokens, 5) if self.tokens else None,
            "longest_document": self.longest,
            "documents_by_tokens": split,
            "largest_token_id": self.largest_token_id,
            "vocabulary_used": self.ids_used,
            "vocabulary_coverage": round(self.ids_used / self.spec.vocab_size, 5),
            "eod_ids_inside_texts": self.eod_inside,
        }


def tokenizer_json(spec: TokenizerSpec, engine: str, why: str, append_eod: bool, special: bool) -> dict[str, Any]:
    """What the summary says of the tokenizer."""
    return {
        "tokenizer": spec.name,
        "tokenizer_path": str(spec.folder),
        "tokenizer_sha256": spec.sha256,
        "tokenizer_content": spec.content,
        "vocabulary_size": spec.vocab_size,
        "eod_id": spec.eod,
        "eod_token": spec.eod_token,
        OWN_END: spec.own_end,
        "append_eod": append_eod,
        "special_tokens": special,
        "ids_before_text": list(spec.prefix) if special else [],
        "ids_after_text": list(spec.suffix) if special else [],
        "engine": engine,
        "engine_reason": why,
        "dtype": spec.dtype,
    }


def unknown_said(stem: str, share: float) -> str:
    """The warning of a pair of which a share is unknown to the tokenizer."""
    return (
        f"WARNING: {stem}: {share:.2%} of the tokens stand for text that the tokenizer has no entry for: nothing can be learned from"
        " them; take a tokenizer that knows the text's language, or train one: python -m nemo_workflow.tokenizer"
    )


def lines_for_people(stem: str, figures: dict[str, Any], rejects: Counter[str], listed: str) -> list[str]:
    """The summary as it is printed. `listed`: where the bad lines are."""
    documents = counted(figures["documents"], "document")
    if figures["empty_documents"]:
        documents += f" ({figures['empty_documents']:,} empty)"
    out = [
        f"{stem}: {documents}, {counted(figures['tokens'], 'token')} ({figures['dtype']}, "
        f"{human_bytes(figures['bin_bytes'])}), {figures['bytes_per_token'] or 0:.2f} bytes per token",
        f"  longest {counted(figures['longest_document'], 'token')}; documents by tokens: "
        + (", ".join(f"{k} {human_count(v)}" for k, v in figures["documents_by_tokens"].items()) or "none"),
        f"  {figures['vocabulary_used']:,} of {figures['vocabulary_size']:,} vocabulary entries used "
        f"({figures['vocabulary_coverage']:.1%})",
    ]
    if rejects:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejects.most_common())
        out.append(f"  bad lines left out: {sum(rejects.values()):,} ({reasons}), listed in {listed}")
    return out
