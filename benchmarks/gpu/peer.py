"""The peer: transformers' LlamaForCausalLM of Llama 3.2 1B's shape, torch.compile, autocast, fused AdamW. A case of
run_cases.py: `micro_batch`, `global_batch`, `steps`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import turn


def main() -> None:
    case, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from nemo_workflow.models import catalog, flops

    device = "cuda" if torch.cuda.is_available() else "cpu"
    micro, batch, seq, steps = case["micro_batch"], case["global_batch"], case.get("seq", 8192), case.get("steps", 7)
    torch.set_float32_matmul_precision("high")
    config = LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rope_theta=500000.0,
        tie_word_embeddings=True, rms_norm_eps=1e-5, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    if case.get("rehearse"):
        seq, batch = 64, 2 * micro
        config = LlamaConfig(
            vocab_size=128256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
        )
    turn.wait(folder)
    model = LlamaForCausalLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    forward = torch.compile(model, backend="eager" if case.get("rehearse") else "inductor")
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = []
    for _ in range(steps):
        synchronize()
        began = time.perf_counter()
        for _ in range(batch // micro):
            tokens = torch.randint(0, 128000, (micro, seq), device=device)
            with torch.autocast(device, torch.bfloat16):
                loss = forward(input_ids=tokens, labels=tokens).loss
            (loss * micro / batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize()
        seconds.append(time.perf_counter() - began)
    rate = batch * seq / statistics.median(seconds[3:])
    work = flops.flops_a_token("gpt", catalog.find("llama32_1b").sizes, 128256, seq) or 0
    result = {
        "tok_s": rate,
        "outside_tok_s": rate,
        "step_seconds": seconds,
    }
    if device == "cuda":
        result |= {
            "mfu": rate * work / (flops.peak_of(torch.cuda.get_device_name()) or 1e30),
            "alloc": torch.cuda.max_memory_allocated() / 2**30,
            "reserved": torch.cuda.max_memory_reserved() / 2**30,
            "device": torch.cuda.get_device_name(),
        }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
