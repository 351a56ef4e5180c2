"""What other tools call our flags: Megatron-LM, litgpt, torchtitan, Hugging Face's Trainer, Lightning.

A word is looked up here before any distance of spelling: `--tokenizer` is far from `--hf-model-id` and near to a secret.
"""

from __future__ import annotations

_OF: dict[str, str] = {
    "--hf-model-id": "tokenizer tokenizer-model tokenizer-path tokenizer-dir tokenizer-name tokenizer-name-or-path hf-tokenizer"
    " model-name-or-path model-id hf-model hf-path model.hf-assets-path",
    "--model-name": "model recipe model.name model.flavor model-recipe",
    "--nemo-model": "init-from pretrained-checkpoint-dir initial-checkpoint-dir pretrained-checkpoint",
    "--dataset-dir": "data data-path data-dir dataset dataset-name train-data-path train-data train-file data.data-path",
    "--max-steps": "steps train-iters train-steps max-iters total-steps num-steps training.steps train.max-steps iterations",
    "--global-batch-size": "batch-size gbs total-batch-size train-batch-size training.global-batch-size train.global-batch-size",
    "--micro-batch-size": "mbs per-device-train-batch-size device-batch-size training.local-batch-size train.micro-batch-size",
    "--seq-length": "seq-len sequence-length block-size max-length max-seq-length context-length training.seq-len"
    " train.max-seq-length max-position-embeddings",
    "--lr": "learning-rate max-lr optimizer.lr train.learning-rate peak-lr",
    "--min-lr": "min-learning-rate minimum-lr train.min-lr lr-min",
    "--warmup-steps": "warmup warmup-iters num-warmup-steps lr-warmup-iters lr-warmup-steps lr-scheduler.warmup-steps"
    " train.lr-warmup-steps",
    "--lr-schedule": "lr-decay-style lr-scheduler-type lr-scheduler scheduler lr-scheduler.decay-type",
    "--decay-steps": "lr-wsd-decay-iters wsd-decay-steps",
    "--decay-style": "lr-wsd-decay-style",
    "--clip-grad": "max-grad-norm grad-clip gradient-clip-val max-norm train.max-norm clip",
    "--num-gpus": "gpus devices n-gpus nproc-per-node gpus-per-node num-devices ngpu",
    "--num-nodes": "nodes nnodes n-nodes",
    "--tensor-model-parallel-size": "tp tensor-parallel-size tensor-parallel parallelism.tensor-parallel-degree",
    "--pipeline-model-parallel-size": "pp pipeline-parallel-size pipeline-parallel parallelism.pipeline-parallel-degree",
    "--virtual-pipeline-model-parallel-size": "vpp virtual-pipeline-parallel-size num-virtual-stages-per-pipeline-rank",
    "--first-stage-layers": "decoder-first-pipeline-num-layers num-layers-in-first-pipeline-stage",
    "--last-stage-layers": "decoder-last-pipeline-num-layers num-layers-in-last-pipeline-stage",
    "--context-parallel-size": "cp context-parallel parallelism.context-parallel-degree",
    "--expert-model-parallel-size": "ep expert-parallel-size expert-parallel parallelism.expert-parallel-degree",
    "--output-dir": "out-dir log-dir save checkpoint-dir save-dir dump-folder job.dump-folder logging-dir results-dir",
    "--experiment": "name run-name exp-name experiment-name job-name",
    "--save-every": "save-interval save-steps checkpoint-every checkpoint-interval checkpoint.interval train.save-interval"
    " ckpt-interval",
    "--keep-checkpoints": "save-total-limit keep-latest-k checkpoint.keep-latest-k",
    "--val-check-interval": "eval-interval eval-steps eval-every eval.interval validation.freq",
    "--log-every": "log-interval logging-steps log-freq metrics.log-freq train.log-interval",
    "--wandb-name": "wandb-run-name wandb-run",
    "--precision": "dtype mixed-precision bf16 fp16 model-dtype",
    "--recompute-granularity": "gradient-checkpointing activation-checkpointing recompute-activations activation-checkpoint.mode",
    "--time": "time-limit walltime",
    "--accelerator": "device cpu use-cpu no-cuda",
    "--weight-decay": "wd optimizer.weight-decay",
    "--adam-beta1": "beta1",
    "--adam-beta2": "beta2",
    "--sample": "prompt generate",
}
_EPOCHS = "epochs num-train-epochs max-epochs num-epochs train.epochs"
_SAID = {
    "hidden-size num-layers num-hidden-layers ffn-hidden-size intermediate-size num-attention-heads num-key-value-heads"
    " num-query-groups kv-channels head-dim n-layer n-layers n-head n-heads n-embd d-model dim model-size num-experts": "sizes are the recipe's, --model-name (--list-models prints all with theirs), or those of the"
    " checkpoint of --nemo-model",
    "pipeline-model-parallel-layout": "--first-stage-layers and --last-stage-layers say how many layers the ends have; with -VPP each"
    " stage's layers are dealt out to its chunks",
    "input input-file text-file text train-text data-file": "text is preprocessed first (bash preprocess_data.sh); --dataset-dir"
    " takes its output",
    "lora peft adapter use-peft": "all weights are trained, there are no adapters; --nemo-model names the model to start from",
    "fsdp zero-stage deepspeed use-distributed-optimizer": "the optimizer is distributed already (--disable-dist-optim);"
    " --layout auto splits the model as it fits",
    "overwrite resume-from-scratch restart from-scratch": "another --experiment starts from the beginning",
    "no-validation skip-validation eval-iters": "--split 1,0,0 trains without a validation",
    "vocab-size padded-vocab-size make-vocab-size-divisible-by": "the vocabulary is that of the tokenizer of --hf-model-id",
    _EPOCHS: "leave --max-steps out for one epoch, or give its number of steps",
    "resume resume-from-checkpoint load checkpoint.load resume-from auto-resume": "the same command continues from the run's newest"
    " checkpoint by itself; --nemo-model starts from another model",
    "rope-base rope-theta rotary-base rope-scaling rope-scaling-factor model.rope-theta": "a model keeps the rotary base that it was"
    " trained with; for a longer --seq-length raise rope_theta and max_position_embeddings in the config.json of its Hugging Face"
    " folder, import that, and name both folders in --nemo-model and --hf-model-id",
    "gradient-accumulation-steps gradient-accumulation-iters accumulate-grad-batches": "micro batches per step follow from"
    " --global-batch-size and --micro-batch-size",
    "lr-decay-iters lr-decay-steps": "the learning rate decays over --max-steps, less --constant-steps; with"
    " --lr-schedule wsd over the last --decay-steps",
}
# values that others' flags of the same name take
_VALUES = {
    "--precision": {
        "32": "fp32 float32 float fp32-true 32-true full",
        "bf16-mixed": "bf16 bfloat16 bf16-true bf16_mixed",
        "16-mixed": "fp16 16 float16 half fp16-mixed 16-true fp16_mixed",
    }
}
MEANINGS: dict[str, str] = {
    **{f"--{word}": f"did you mean {flag}?" for flag, words in _OF.items() for word in words.split()},
    **{f"--{word}": said for words, said in _SAID.items() for word in words.split()},
    **{
        f"{flag} {word}": f"did you mean {flag} {value}?"
        for flag, values in _VALUES.items()
        for value, words in values.items()
        for word in words.split()
    },
}
EPOCHS = tuple(f"--{word}" for word in _EPOCHS.split())
