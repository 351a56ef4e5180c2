#!/usr/bin/env bash
# How run_of_daff424.tar.xz was made: in a checkout of commit daff424, with its environment first in PATH.
# It keeps run/ without attempts/, report.html and logs, and hf/ without its weights; the host's name is replaced.
set -eu
place=${1:?folder to make it in}
mkdir -p "$place/data"
python - "$place" <<'PY'
import sys
from pathlib import Path

import torch
from nemo_workflow import demo
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

place = Path(sys.argv[1])
demo.write_corpus(place / "data" / "text.jsonl", limit=40_000)
demo.train_tokenizer(place / "data" / "text.jsonl", place / "tokenizer", vocabulary=257)
torch.manual_seed(1)
config = LlamaConfig(
    vocab_size=257, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    head_dim=4, max_position_embeddings=256, tie_word_embeddings=True, rope_theta=10000.0,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(place / "hf")
AutoTokenizer.from_pretrained(place / "tokenizer").save_pretrained(place / "hf")
PY
bash preprocess_data.sh --hf-tokenizer "$place/hf" --data-prefix text --input-dir "$place/data" --output-dir "$place/dataset"
python ckpt_conversion/convert_from_hf_to_nemo2.py --source "$place/hf" --output-path "$place/nemo"
python pretrain_llm.py --accelerator cpu --nemo-model "$place/nemo" --model-name llama32_1b --hf-model-id "$place/hf" \
    --dataset-dir "$place/dataset" --output-dir "$place" --experiment run --num-gpus 1 --global-batch-size 4 \
    --micro-batch-size 2 --seq-length 64 --split 500,500,0 --max-steps 4 --save-every 2 --val-check-interval 2 \
    --log-every 1 --keep-checkpoints 1
