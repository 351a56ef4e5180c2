"""What other tools call our flags: Megatron-LM, litgpt, torchtitan, axolotl, Hugging Face's Trainer, Lightning, NeMo's recipes.

A word is looked up here before any distance of spelling: `--tokenizer` is far from `--hf-model-id` and near to a secret.
"""

from __future__ import annotations

from nemo_workflow.config.flags import TABLE
from nemo_workflow.utils.meant import called

_OF: dict[str, str] = {
    "--hf-model-id": "tokenizer hf-id model.tokenizer.model model.tokenizer.type tokenizer-model tokenizer-path tokenizer-dir tokenizer-name tokenizer-name-or-path hf-tokenizer"
    " tokenizer-id model-id hf-model hf-path model.hf-assets-path",
    "--model-name": "factory model recipe model.name model.flavor model-recipe model-config model-config-name",
    "--nemo-model": "init-from pretrained-checkpoint-dir initial-checkpoint-dir pretrained-checkpoint restore-from-path restore-config.path"
    " model-path model-dir checkpoint.initial-load-path from-checkpoint load-checkpoint load-from-checkpoint load-model load-from checkpoint ckpt"
    " start-from weights init-weights initial-weights load-weights",
    "--dataset-dir": "d data data-path data-dir data-prefix dataset dataset-name train-data-path train-data data.data-path datasets",
    "--max-steps": "steps train-iters train-steps max-iters total-steps num-steps training.steps train.max-steps iterations"
    " iters max-iterations",
    "--global-batch-size": "batch-size bs b gbs total-batch-size train-batch-size training.global-batch-size train.global-batch-size",
    "--micro-batch-size": "mbs per-device-train-batch-size per-device-eval-batch-size eval-batch-size device-batch-size training.local-batch-size train.micro-batch-size",
    "--seq-length": "seq-len sequence-length sequence-len block-size max-length max-seq-length max-seq-len context-length ctx-len training.seq-len ctx n-ctx"
    " train.max-seq-length max-position-embeddings",
    "--lr": "learning-rate max-lr optimizer.lr train.learning-rate peak-lr",
    "--min-lr": "min-learning-rate minimum-lr train.min-lr lr-min",
    "--warmup-steps": "lr-warmup warmup warmup-iters num-warmup-steps lr-warmup-iters lr-warmup-steps lr-scheduler.warmup-steps"
    " train.lr-warmup-steps",
    "--lr-schedule": "decay-lr lr-decay-style lr-scheduler-type lr-scheduler scheduler lr-scheduler.decay-type",
    "--optimizer": "optim optimizer.name",
    "--decay-steps": "lr-wsd-decay-iters wsd-decay-steps",
    "--decay-style": "lr-wsd-decay-style",
    "--clip-grad": "gradient-clipping max-grad-norm grad-clip gradient-clip-val max-norm train.max-norm clip",
    "--num-gpus": "ntasks gpus devices n-gpus nproc nproc-per-node gpus-per-node num-devices ngpu gres ntasks-per-node",
    "--num-nodes": "nodes nnodes n-nodes",
    "--tensor-model-parallel-size": "tp-size tp tensor-parallel-size tensor-parallel parallelism.tensor-parallel-degree",
    "--pipeline-model-parallel-size": "pp-size pp pipeline-parallel-size pipeline-parallel parallelism.pipeline-parallel-degree",
    "--virtual-pipeline-model-parallel-size": "vp vp-size vpp virtual-pipeline-parallel-size num-virtual-stages-per-pipeline-rank",
    "--first-stage-layers": "decoder-first-pipeline-num-layers num-layers-in-first-pipeline-stage",
    "--last-stage-layers": "decoder-last-pipeline-num-layers num-layers-in-last-pipeline-stage",
    "--context-parallel-size": "cp-size cp context-parallel parallelism.context-parallel-degree",
    "--expert-model-parallel-size": "ep-size ep expert-parallel-size expert-parallel parallelism.expert-parallel-degree",
    "--output-dir": "o out-dir output output-path log-dir save save-dir save-path dump-folder job.dump-folder logging-dir results-dir experiment-dir exp-dir"
    " checkpoint.folder",
    "--experiment": "name run-name exp exp-name experiment-name job-name run",
    "--save-every": "saves-per-epoch save-every-n-steps save-interval save-steps save-freq checkpoint-every checkpoint-interval checkpoint.interval train.save-interval"
    " ckpt-interval",
    "--keep-checkpoints": "save-top-k log.ckpt.save-top-k save-total-limit keep-latest-k checkpoint.keep-latest-k",
    "--val-check-interval": "evals-per-epoch eval-interval eval-steps eval-every eval.interval eval-freq validation.freq val-interval",
    "--log-every": "log-interval logging-steps log-every-n-steps log-freq metrics.log-freq train.log-interval",
    "--wandb-name": "wandb-run-name wandb-run",
    "--wandb": "metrics.enable-wandb create-wandb-logger",
    "--wandb-project": "project",
    "--precision": "trainer.precision torch-dtype dtype mixed-precision model-dtype training.mixed-precision-param",
    "--recompute-granularity": "checkpoint-activations activations-checkpoint-granularity recompute activation-checkpoint gradient-checkpointing activation-checkpointing recompute-activations activation-checkpoint.mode",
    "--time": "time-limit walltime",
    "--accelerator": "device",
    "--sequence-parallel": "sp",
    "--weight-decay": "wd optimizer.weight-decay",
    "--adam-beta1": "beta1 beta-1 adam-beta-1 optimizer.beta1",
    "--adam-beta2": "beta2 beta-2 adam-beta-2 optimizer.beta2",
    "--sample": "prompt generate",
    "--seed": "random-seed manual-seed seed-everything training.seed",
    "--validation-dir": "val-data-path valid-data-path val-data validation-file eval-dataset validation-data",
    "--blend": "data-args-path blend-file data-blend",
    "--config": "c config-file config-path job.config-file yaml",
    "--container-image": "docker image container",
    "--container-mounts": "mounts mount",
    "--profile": "profiling.enable-profiling profile-step-start profile-step-end profiler",
    "--timeout-minutes": "ddp-timeout distributed-timeout-minutes comm-timeout comm.train-timeout-seconds",
    "--push-to-hub": "hub-model-id push-to-hf push-model upload-to-hub",
    "--setup-file": "modules module source",
    "--container-env": "env",
    "--container-runtime": "singularity apptainer enroot pyxis",
    "--ssh": "ssh-host host user tunnel",
    "--list-models": "models recipes list-recipes",
    "--deterministic": "deterministic-mode debug.deterministic training.deterministic",
}
_EPOCHS = "epochs num-train-epochs max-epochs num-epochs train.epochs"
_SAID = {
    "hidden-size num-layers num-hidden-layers ffn-hidden-size intermediate-size num-attention-heads num-key-value-heads"
    " num-query-groups kv-channels head-dim n-layer n-layers n-head n-heads n-embd d-model dim model-size num-experts": "sizes are the recipe's, --model-name (--list-models prints all with theirs), or those of the"
    " checkpoint of --nemo-model",
    "pipeline-model-parallel-layout": "--first-stage-layers and --last-stage-layers say how many layers the ends have; with -VPP each"
    " stage's layers are dealt out to its chunks",
    "input input-file text-file text train-text train-file data-file": "text is preprocessed first (bash preprocess_data.sh); --dataset-dir"
    " takes its output",
    "data-parallel-size data-parallel dp dp-size ddp parallelism.data-parallel-shard-degree data-parallel-degree"
    " parallelism.data-parallel-replicate-degree data-parallel-shard-degree data-parallel-replicate-degree": "it follows from"
    " the rest: the ranks, --num-nodes x --num-gpus, over --tensor-model-parallel-size x --pipeline-model-parallel-size x"
    " --context-parallel-size; more GPUs make it larger",
    "max-tokens train-tokens tokens num-tokens total-tokens train.max-tokens": "a step takes --global-batch-size x --seq-length"
    " tokens: give the tokens over that as --max-steps",
    "train-samples max-samples num-samples max-train-samples": "a step takes --global-batch-size samples: give the samples over"
    " that as --max-steps",
    "export": "did you mean --export-hf end? sbatch's export is --container-env",
    "save-model save-hf save-hf-model save-pretrained save-safetensors export-model export-hf-model export-to-hf export-huggingface"
    " export-safetensors export-format hf-export to-hf convert-to-hf": "did you mean --export-hf end?",
    "export-dir export-path hf-output hf-output-dir": "--export-hf end writes the model to hf_model/ in the run's folder",
    "save-final save-final-model save-last save-last-model": "the last step is always saved; --export-hf end writes it as a Hugging Face"
    " model too",
    "checkpoint-dir checkpoints-dir checkpoint-folder checkpoint-path checkpoint-file checkpoint-name ckpt-dir ckpt-path": "--nemo-model"
    " names the weights to start from, --output-dir the folder that runs are written to",
    "beta betas adam-beta adam-betas adamw-betas optim-betas optimizer.betas": "did you mean --adam-beta1 and --adam-beta2?",
    "checkpoint.enable checkpoint.enable-checkpoint enable-checkpoint enable-checkpointing save-strategy do-save always-save-checkpoint"
    " save-checkpoint save-checkpoints": "checkpoints are written by default, every --save-every steps",
    "do-train do-eval train evaluation-strategy eval-strategy": "this command trains and validates by itself, every"
    " --val-check-interval steps",
    "tokenizer-type vocab-file merge-file merges-file": "the tokenizer is the one in the folder, or of the Hub id, of --hf-model-id",
    "num-workers dataloader-num-workers preprocessing-num-workers": "the data is read from --dataset-dir by processes whose number needs no flag",
    "model-name-or-path base-model base-model-name base-model-path base-model-config base-weights pretrained pretrained-model"
    " pretrained-model-name pretrained-model-path pretrained-path pretrained-weights": "--hf-model-id takes a model's tokenizer alone; to go on with its weights, convert it first and name it in --nemo-model",
    "config-name": "the model's sizes are those of a recipe, --model-name, or of the checkpoint of --nemo-model",
    "wandb-key wandb-api-key wandb-api wandb-secret wandb-toke": "wandb reads the environment's WANDB_API_KEY, with --wandb",
    "torch-compile compile training.compile use-flash-attn flash-attention flash-attn attn-implementation transformer-impl"
    " use-mcore-models": "it is NeMo's Megatron model, whose kernels are chosen by themselves; --fp8 makes them faster",
    "master-port master-addr rdzv-endpoint rdzv-backend node-rank local-rank world-size distributed-backend backend": "the ranks of this machine find each"
    " other by themselves, and with --executor slurm those of many machines",
    "attention-dropout hidden-dropout dropout": "dropout is the recipe's of --model-name",
    "tensorboard tensorboard-dir mlflow comet logger logger-name report-to metrics.enable-tensorboard": "--wandb logs to Weights & Biases; losses and speed are always in"
    " report.html and metrics.jsonl of the run's folder below --output-dir",
    "wandb-entity entity": "--wandb logs into the entity of the environment's WANDB_ENTITY",
    "v": "did you mean --version? --log-every says how often a line is printed",
    "verbose quiet q log-level debug print-config show info": "--log-every says how often a line is printed, and --dry-run prints the plan",
    "dry dryrun validate check plan test-run": "--dry-run prints the plan and stops",
    "continue force-resume resume-if-exists": "the same command continues from the run's newest checkpoint by itself; another --experiment starts"
    " from the beginning",
    "load-in-8bit load-in-4bit": "all weights are trained in --precision",
    "sample-packing packing pad-to-sequence-len group-by-length": "documents are packed to --seq-length already",
    "dataset-text-field text-column text-field text-key": "text is preprocessed first, with preprocess_data.sh; --dataset-dir takes"
    " its output",
    "trust-remote-code": "code that comes with a model is never run; --hf-model-id takes a tokenizer without any",
    "load-best-model-at-end metric-for-best-model early-stopping-patience": "the run ends at --max-steps with its last step's"
    " checkpoint; --keep-checkpoints says how many others stay",
    "overlap-grad-reduce overlap-param-gather ddp-find-unused-parameters": "what overlaps is the recipe's of --model-name",
    "use-checkpoint-args": "the sizes are those of the checkpoint of --nemo-model already",
    "pipeline-parallel-schedule parallelism.pipeline-parallel-schedule": "it is 1F1B, interleaved with --virtual-pipeline-model-parallel-size",
    "tf32": "products are computed in --precision",
    "init-method-std": "weights begin as the recipe of --model-name has it",
    "fp8-format fp8-hybrid": "--fp8 trains in NeMo's hybrid format; --fp8-recipe says how its scaling"
    " factors are found",
    "hub-strategy hub-private-repo": "--push-to-hub uploads the last exported model, private unless it is there already",
    "data-cache-path": "the index of --dataset-dir is kept below --output-dir, once for all runs: leave it out",
    "expert-tensor-parallel-size expert-tensor-parallel etp etp-size": "experts are split over tensor ranks as the recipe of --model-name"
    " says (--dry-run prints the layout); --expert-model-parallel-size deals whole experts out",
    "context-parallel-algo cp-comm-type": "the ring or all-to-all of --context-parallel-size is the recipe's: leave it out",
    "lr-scheduler.decay-ratio decay-ratio lr-decay-ratio": "--lr-schedule wsd --decay-steps takes steps: that share of --max-steps",
    "wandb-run-id wandb-id wandb-resume": "with --wandb the same command goes on with the run's own W&B run: leave it out",
    "sequence-parallel-size": "--sequence-parallel splits over the ranks of --tensor-model-parallel-size",
    "warmup-ratio lr-warmup-fraction warmup-fraction": "--warmup-steps takes steps: that share of --max-steps",
    "gpu-ids visible-devices gpu-id": "--num-gpus says how many; CUDA_VISIBLE_DEVICES=0,1 before the command, which ones",
    "splits-string train-split val-split validation-split val-set-size eval-split": "--split takes the parts of training, validation and test,"
    " such as 98,1,1",
    "cpus-per-task gpus-per-task mem-per-cpu exclude error nice comment licenses signal": "--slurm-arg NAME=VALUE gives sbatch any"
    " other of its options",
    "exit-interval exit-duration-in-mins max-time max-duration train-duration": "--max-steps ends the training; with --executor slurm"
    " the job saves before --time",
    "adam-eps adam-epsilon optimizer.eps": "epsilon is the recipe's of --model-name",
    "rampup-batch-size": "the batch is --global-batch-size from the first step",
    "swiglu normalization position-embedding-type untie-embeddings-and-output-weights disable-bias-linear tie-word-embeddings hidden-act": "the architecture is the recipe's, --model-name, or that of the checkpoint of --nemo-model",
    "no-load-optim no-load-rng finetune weights-only": "--nemo-model starts with a model's weights alone",
    "no-save-optim no-save-rng save-only-model ckpt-format use-dist-ckpt async-save": "checkpoints have one form, NeMo's distributed one, with which a"
    " run continues exactly; --save-every says when",
    "cosine-min-lr-ratio min-lr-ratio": "--min-lr takes the learning rate itself",
    "yes": "nothing is asked; --dry-run prints the plan first",
    "shuffle": "the data is shuffled already, by --seed",
    "lora peft adapter use-peft lora-rank lora-r sft dpo instruct chat-template": "all weights are trained, on plain text, there are no adapters; --nemo-model names the model to start from",
    "fsdp fsdp2 zero zero-stage deepspeed strategy use-distributed-optimizer": "the optimizer is distributed already (--disable-dist-optim);"
    " --layout auto splits the model as it fits",
    "overwrite resume-from-scratch restart from-scratch force overwrite-output-dir": "another --experiment starts from the beginning",
    "cpu use-cpu no-cuda no-gpu": "did you mean --accelerator cpu?",
    "cuda": "did you mean --accelerator gpu?",
    "streaming": "the data is read from --dataset-dir as it is needed",
    "bf16": "bf16 is the default: leave it out, or type --precision bf16-mixed",
    "fp16": "did you mean --precision 16-mixed?",
    "no-validation skip-validation": "--split 1,0,0 trains without a validation",
    "eval-iters max-eval-iters limit-val-batches eval-steps-per-round": "a validation takes the recipe's number of batches (32 of most), or as many as --split leaves for it",
    "vocab-size padded-vocab-size make-vocab-size-divisible-by": "the vocabulary is that of the tokenizer of --hf-model-id",
    _EPOCHS: "leave --max-steps out for one epoch, whose steps --dry-run prints; for more of them give --max-steps as many times that",
    "resume resume-from-checkpoint load load-dir load-path checkpoint.load resume-from resume-dir auto-resume": "the same command continues from the run's newest"
    " checkpoint by itself; --nemo-model starts from another model",
    "rope-base rope-theta rotary-base rope-scaling rope-scaling-factor model.rope-theta": "a model keeps the rotary base that it was"
    " trained with; for a longer --seq-length raise rope_theta and max_position_embeddings in the config.json of its Hugging Face"
    " folder, import that, and name both folders in --nemo-model and --hf-model-id",
    "gradient-accumulation-steps gradient-accumulation-iters accumulate-grad-batches grad-accum gas": "micro batches per step follow from"
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
    },
    "--export-hf": {"end": "yes true on 1 last final always hf_model", "save": "all each every steps"},
    "--optimizer": {"adam": "adamw adamw_torch fused_adam distributed_fused_adam"},
    "--lr-schedule": {
        "cosine": "cosine-annealing cosine_with_warmup cosineannealing",
        "constant": "constant_with_warmup none",
    },
    "--recompute-granularity": {"full": "true yes on all", "selective": "sel"},
    "--executor": {"local": "torchrun localhost none", "slurm": "sbatch srun cluster"},
    "--accelerator": {"gpu": "cuda nvidia"},
    "--dry-run": {"text": "true yes"},
}
# the fields of a NeMo recipe, as its own command line takes them
_FIELDS = {
    f"--{field.replace('_', '-')}": f"did you mean --{option.name}?" for option in TABLE for field in option.sets
}
MEANINGS: dict[str, str] = {
    **_FIELDS,
    **called(_OF, _SAID),
    **{
        f"{flag} {word}": f"did you mean {flag} {value}?"
        for flag, values in _VALUES.items()
        for value, words in values.items()
        for word in words.split()
    },
    "--push-to-hub ": "it takes the model's name on the Hub: --push-to-hub ORG/NAME",
    **{f"--gpu {card}": "--gpu plans for NVIDIA's cards alone" for card in ("mi250x", "mi300x", "mi325x", "mi355x")},
    "--gpu v100": "--gpu knows the cards that compute in bf16, from the A100 on",
    **{f"--gpu {card}-80gb": f"did you mean --gpu {card}?" for card in ("h100", "a100")},
    **{f"--gpu {count}": f"--gpu names a card to plan for; did you mean --num-gpus {count}?" for count in range(1, 65)},
}
EPOCHS = tuple(f"--{word}" for word in _EPOCHS.split())
