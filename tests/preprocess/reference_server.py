"""Megatron's own output for given texts: IndexedDatasetBuilder fed by AutoTokenizer, in one long-lived process.

Reads a JSON request a line ({"tokenizer", "texts", "prefix", "append_eod", "special", "slow"}), writes PREFIX.bin and
PREFIX.idx, and answers with a line; an empty line ends it. Importing megatron-core costs seconds, so the tests share one server.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

from nemo_workflow.backends import memory_pool


@cache
def tokenizer_of(folder: str, slow: bool) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, use_fast=not slow, trust_remote_code=slow)


def build(request: dict[str, Any]) -> dict[str, Any]:
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    tokenizer = tokenizer_of(request["tokenizer"], request.get("slow", False))
    builder = IndexedDatasetBuilder(f"{request['prefix']}.bin", dtype=DType.optimal_dtype(len(tokenizer)))
    for text in request["texts"]:  # as tools/preprocess_data.py of Megatron-LM does it
        ids = tokenizer(text, add_special_tokens=request["special"]).input_ids
        if ids and request["append_eod"]:
            ids = [*ids, tokenizer.eos_token_id]
        builder.add_document(ids, [len(ids)] if ids else [])
    builder.finalize(f"{request['prefix']}.idx")
    return {"vocab_size": len(tokenizer), "eod": tokenizer.eos_token_id}


def main() -> None:
    memory_pool.leave_out()  # torch for CUDA, nvcc and no GPU: megatron-core's import would fail
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in iter(sys.stdin.readline, "\n"):
        answers.write(json.dumps(build(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
