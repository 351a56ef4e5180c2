"""A few lines that an exported Hugging Face model goes on with after a text: to see that it has learned something."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

from nemo_workflow.errors import Refusal, run_command


def main() -> int:
    """`python -m nemo_workflow.sample --hf-model DIR TEXT`; prints the text and what the model makes of it."""
    parser = argparse.ArgumentParser(prog="python -m nemo_workflow.sample", description=__doc__)
    parser.add_argument("--hf-model", required=True, type=Path, help="folder that convert_from_nemo2_to_hf.py wrote")
    parser.add_argument("--tokens", type=int, default=60, help="tokens to generate (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("text", help="how the text begins")
    arguments = parser.parse_args()
    if not (arguments.hf_model / "config.json").is_file():
        raise Refusal(f"--hf-model {arguments.hf_model}: no config.json there; export a checkpoint first")
    if arguments.tokens < 1 or arguments.temperature < 0:
        raise Refusal("--tokens must be at least 1, and --temperature not below 0")
    print(generate(arguments.hf_model, arguments.text, arguments.tokens, arguments.temperature, arguments.seed))
    return 0


def generate(folder: Path, text: str, tokens: int, temperature: float, seed: int) -> str:
    """`text` and up to `tokens` tokens after it. The same seed gives the same text."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # torch warns of pynvml at import
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    begin = tokenizer(text, return_tensors="pt")
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with torch.inference_mode():
        made = model.generate(
            input_ids=begin["input_ids"],
            attention_mask=begin["attention_mask"],
            max_new_tokens=tokens,
            pad_token_id=tokenizer.eos_token_id,
            **sampling,
        )
    return str(tokenizer.decode(made[0], skip_special_tokens=True))


if __name__ == "__main__":
    run_command(main)
