"""The flags of pretrain_llm.py: one table. Argparse, --config files, Settings, the pages' tables and the tests read it.

A row holds a flag's names, type, default, help and the field of a NeMo recipe that it sets. Rows with `guide=True`
are the contract of the pretraining guide: their names, types and defaults don't change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nemo_workflow.utils import gpus, startup
from nemo_workflow.utils.arguments import no_value
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.folder_kinds import OUTPUT_DIR

STRATEGY = "trainer.strategy"
MODEL = "model.config"
OPTIM = "optim.config"
SCHEDULE = "optim.lr_scheduler"


@dataclass(frozen=True)
class Option:
    """One flag. `name` is its long spelling with hyphens and without the dashes."""

    name: str
    group: str
    help: str
    type: Callable[[str], Any] = str
    default: Any = None
    short: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    sets: tuple[str, ...] = ()  # dotted recipe fields that take the value as it is
    required: bool = False
    unless: str | None = None  # the attribute of a flag that stands in place of a required one
    many: bool = False  # may be given more than once; the value is a tuple
    switch: bool = False  # store_true
    env: str | None = None  # the default comes from this environment variable
    bare: Any = None  # what the flag means without a value, where the value may be left out
    least: float | None = None  # the smallest value allowed
    above: float | None = None  # a value that every allowed one is above
    words: bool = False  # the value may be written as several words
    may_be_empty: bool = False  # nothing is a value too, or has a refusal of its own
    guide: bool = False

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")

    @property
    def secret(self) -> bool:
        return self.env is not None

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every way to write it: short names, then the long names with hyphens and with underscores."""
        longs: list[str] = []
        for name in (self.name, *self.aliases):
            longs += [f"--{name}", f"--{name.replace('-', '_')}"]
        return (*self.short, *dict.fromkeys(longs))

    @property
    def form(self) -> str:
        """What a value looks like, for the refusal of another."""
        return FORMS.get(self.type) or type_name(self)

    def form_for(self, text: str) -> str:
        """The same, with the number that was written as 10k or 1,000 as the example."""
        found = re.fullmatch(r"([0-9][0-9,_]*(?:\.[0-9]+)?)(?:e([0-9]))?([kKmM]?)", text)
        if not found or self.type not in (int, int_or_auto):
            return self.form
        number = float(re.sub("[,_]", "", found[1])) * 10 ** (
            int(found[2] or 0) + {"": 0, "k": 3, "m": 6}[found[3].lower()]
        )
        return f"a whole number in digits, such as {number:.0f}" if number.is_integer() else self.form

    def from_command_line(self, text: str) -> Any:
        """Convert a value of the command line; raises Refusal with what was expected."""
        if not text.strip() and not self.may_be_empty:
            raise Refusal(no_value(f"--{self.name}", "an empty value", not self.required))
        try:
            return self._converted(text)
        except ValueError:
            # --suggest llama32_1b
            model = (
                f"; the model is named by -M: --{self.name} -M {text}" if self.bare and not text[:1].isdigit() else ""
            )
            raise Refusal(f"--{self.name} {text}: expected {self.form_for(text)}{model}") from None

    def from_yaml(self, value: Any) -> Any:
        """Check and convert a value of a --config file; raises ValueError with what was expected."""
        if value is None:
            return None
        if self.switch:
            if getattr(value, "kind", "") != "bool":
                raise ValueError("expected true or false")
            from nemo_workflow.utils.yaml_text import truth

            return truth(value)
        if self.many:
            return tuple(self._one(v) for v in (value if isinstance(value, list) else [value]))
        return self._one(value)

    def _one(self, value: Any) -> Any:
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            raise ValueError(f"expected one value, not a list: {','.join(value)}")
        if not isinstance(value, str):
            raise ValueError(f"expected {self.form}")
        if not value.strip() and not self.may_be_empty:
            raise ValueError("an empty value; give one, or take the line out")
        if why := startup.no_home(value):
            raise ValueError(why)
        try:
            converted = self._converted(str(value))
        except ValueError as error:
            raise ValueError(f"expected {self.form_for(value)}") from error
        if self.choices and converted not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}")
        return converted

    def _converted(self, text: str) -> Any:
        """Raises ValueError; Python itself would take 1_000, 0x10 in a YAML file, and digits of other scripts."""
        if text != "auto" and self.type in NUMBERS and not re.fullmatch(NUMBERS[self.type], text):
            raise ValueError(text)
        return self.type(text)


def type_name(option: Option) -> str:
    """The type as the README's tables write it."""
    if option.switch:
        return "store_true"
    return getattr(option.type, "type_name", option.type.__name__)


def slurm_time(text: str) -> str:
    """A time limit in one of Slurm's forms, unchanged."""
    if not re.fullmatch(r"(\d+-)?\d+(:[0-5]?\d){0,2}", text):
        raise ValueError(text)
    return text


slurm_time.type_name = "str"  # type: ignore[attr-defined]


def on_nan(text: str) -> str:
    """'stop' or 'skip N', unchanged."""
    if not re.fullmatch(r"stop|skip [1-9]\d*", text):
        raise ValueError(text)
    return text


on_nan.type_name = "'stop' or 'skip N'"  # type: ignore[attr-defined]


class Auto(int):
    """`auto` where a whole number may stand: the plan works it out. As a number it is 0, which no such flag takes."""

    def __repr__(self) -> str:
        return "auto"

    __str__ = __repr__


AUTO = Auto(0)


def int_or_auto(text: str) -> int:
    """A whole number, or AUTO for the word auto."""
    return AUTO if text == "auto" else int(text)


int_or_auto.type_name = "int"  # type: ignore[attr-defined]


def duration(text: str) -> str:
    """A time such as 24h, 90m or 1.5d, unchanged."""
    if not re.fullmatch(r"[0-9]*[1-9][0-9]*(\.[0-9]+)?[mhd]", text):
        raise ValueError(text)
    return text


duration.type_name = "str"  # type: ignore[attr-defined]


def step_range(text: str) -> str:
    """One step or FIRST-LAST, unchanged."""
    found = re.fullmatch(r"([1-9][0-9]*)(?:-([1-9][0-9]*))?", text)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise ValueError(text)
    return text


step_range.type_name = "str"  # type: ignore[attr-defined]

SUGGESTIONS = 5

WHOLE = r"[+-]?[0-9]+"
NUMBERS: dict[Callable[[str], Any], str] = {
    int: WHOLE,
    int_or_auto: WHOLE,
    float: r"[+-]?(inf|nan|([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)",
}
FORMS: dict[Callable[[str], Any], str] = {
    int: "a whole number in digits, such as 1000",
    float: "a number without a unit, such as 80, 0.001 or 1e-3",
    int_or_auto: "a whole number in digits, or auto",
    step_range: "one step, or the first and the last, such as 5 or 5-7",
    duration: "a number and m, h or d, such as 90m, 24h or 3d",
    slurm_time: "minutes, hours:minutes:seconds or days-hours, such as 240, 4:00:00 or 1-12",
}

EXECUTION = "Experiment Execution Method"
SLURM = "Slurm Parameter Settings"
HARDWARE = "Hardware Settings"
MODEL_GROUP = "Model Settings"
TRAINING = "Training Parameters"
OPTIMIZER = "Optimizer and Learning Rate"
PARALLEL = "Model Parallelization Settings"
DATA = "Dataset Path"
CHECKPOINTS = "Checkpoint Recovery"
LOGGING = "Training Process Output and Logging"
RECOMPUTE = "Activation Checkpointing"
OFFLOAD = "CPU offloading"

GROUPS = (
    EXECUTION,
    SLURM,
    HARDWARE,
    MODEL_GROUP,
    TRAINING,
    OPTIMIZER,
    PARALLEL,
    DATA,
    CHECKPOINTS,
    LOGGING,
    RECOMPUTE,
    OFFLOAD,
)

# fmt: off
_GUIDE = [
    Option("executor", EXECUTION, "where to run: this machine, or a Slurm cluster", default="local", choices=("local", "slurm")),
    Option("experiment", EXECUTION, "name of the experiment and of its folder below --output-dir", default="pretraining", short=("-E",)),
    Option("account", SLURM, "Slurm account", default="root", short=("-A",)),
    Option("partition", SLURM, "Slurm partition", default="defq", short=("-P",)),
    Option("container-image", SLURM, "NeMo container image", default="nvcr.io/nvidia/nemo:dev", short=("-I",)),
    Option("num-nodes", HARDWARE, "number of nodes", type=int, default=1, short=("-N",), sets=("trainer.num_nodes",), least=1),
    Option("num-gpus", HARDWARE, "GPUs per node; on a CPU: processes per node, 1 if unset", type=int, default=8, short=("-G",), sets=("trainer.devices",), least=1),
    Option("model-name", MODEL_GROUP, "recipe (see supported_model_name.txt or --list-models); found from --nemo-model or the Hugging Face config.json when left out", short=("-M",)),
    Option("hf-model-id", MODEL_GROUP, "Hugging Face model id or local folder; its tokenizer is used", required=True),
    Option("nemo-model", MODEL_GROUP, "NeMo 2 checkpoint folder (context/ and weights/) to start from"),
    Option("hf-token", MODEL_GROUP, "Hugging Face token for downloading the tokenizer; better set HF_TOKEN in the environment", env="HF_TOKEN"),
    Option("max-steps", TRAINING, "training steps; unset: one epoch of the training split", type=int, sets=("trainer.max_steps",), least=1),
    Option("global-batch-size", TRAINING, "sequences per step over all ranks; a multiple of micro batch size x data parallel size", type=int, default=2048, short=("-gbs",), sets=("data.global_batch_size",), least=1),
    Option("micro-batch-size", TRAINING, "sequences that each rank computes at once; auto, or unset on this machine's GPUs: the largest that fits by the memory plan", type=int_or_auto, default=1, short=("-mbs",), sets=("data.micro_batch_size",), least=1),
    Option("fp8", TRAINING, "train with fp8 matrix products (GPU with Transformer Engine)", switch=True, default=False),
    Option("tensor-model-parallel-size", PARALLEL, "split each layer over this many ranks", type=int_or_auto, default=1, short=("-TP",), sets=(f"{STRATEGY}.tensor_model_parallel_size",), least=1),
    Option("pipeline-model-parallel-size", PARALLEL, "split the layers into this many stages", type=int_or_auto, default=1, short=("-PP",), sets=(f"{STRATEGY}.pipeline_model_parallel_size",), least=1),
    Option("virtual-pipeline-model-parallel-size", PARALLEL, "model chunks per pipeline stage; 1: off", type=int_or_auto, default=1, short=("-VPP",), least=1),
    Option("context-parallel-size", PARALLEL, "split each sequence over this many ranks (GPU with Transformer Engine)", type=int_or_auto, default=1, short=("-CP",), sets=(f"{STRATEGY}.context_parallel_size",), least=1),
    Option("sequence-parallel", PARALLEL, "split norms and dropouts along the sequence too (needs tensor parallelism)", switch=True, default=False, short=("-SP",), sets=(f"{STRATEGY}.sequence_parallel",)),
    Option("dataset-dir", DATA, "folder with .bin/.idx files, or the folder above its preprocessed/; may be given more than once", aliases=("dataset-path",), required=True, unless="blend", many=True, metavar="DIR"),
    Option("wandb", LOGGING, "log to Weights & Biases", switch=True, default=False),
    Option("wandb-project", LOGGING, "Weights & Biases project"),
    Option("wandb-name", LOGGING, "Weights & Biases run name; unset: the experiment's name"),
    Option("wandb-token", LOGGING, "Weights & Biases key; better set WANDB_API_KEY in the environment", env="WANDB_API_KEY" ),
    Option("recompute-granularity", RECOMPUTE, "recompute activations in the backward pass: whole layers, or attention only; auto: the fewest layers that fit", choices=("full", "selective", "auto"), sets=(f"{MODEL}.recompute_granularity",)),
    Option("recompute-method", RECOMPUTE, "with full: groups of layers (uniform), or the first layers of a stage (block)", choices=("block", "uniform"), sets=(f"{MODEL}.recompute_method",)),
    Option("recompute-num-layers", RECOMPUTE, "with full: layers per group (uniform), or layers recomputed per (virtual) stage (block)", type=int, sets=(f"{MODEL}.recompute_num_layers",), least=1),
    Option("cpu-offloading", OFFLOAD, "keep part of the activations or weights in host memory", switch=True, default=False, sets=(f"{MODEL}.cpu_offloading",)),
    Option("cpu-offloading-layers", OFFLOAD, "number of layers to offload", type=int, sets=(f"{MODEL}.cpu_offloading_num_layers",), least=1),
    Option("cpu-offloading-activations", OFFLOAD, "offload activations", switch=True, default=False, sets=(f"{MODEL}.cpu_offloading_activations",)),
    Option("cpu-offloading-weights", OFFLOAD, "offload weights (Transformer Engine 2.9 no longer does)", switch=True, default=False, sets=(f"{MODEL}.cpu_offloading_weights",)),
    Option("optim-cpu-offloading", OFFLOAD, "keep Adam's states and fp32 weights in host memory", switch=True, default=False, sets=(f"{OPTIM}.optimizer_cpu_offload",)),
    Option("optim-cpu-offloading-frac", OFFLOAD, "fraction of the optimizer states to offload, 0 to 1", type=float, default=1.0, least=0),
]

_OURS = [
    Option("accelerator", HARDWARE, "auto: a GPU where the machine has one (always with --executor slurm), else the CPU", default="auto", choices=("auto", "gpu", "cpu")),
    Option("gpu", HARDWARE, "GPU to plan for; unset: this machine's, else (and for Slurm) an H100", choices=gpus.KEYS),
    Option("gpu-memory", HARDWARE, "GiB of memory of one GPU, for the memory plan; unset: that of --gpu or of this machine's", type=float, least=1),
    Option("node-bandwidth", HARDWARE, "GB/s per GPU between nodes in one direction, for the time plan; unset: as clusters of this GPU usually have it", type=float, above=0),
    Option("time", SLURM, "time limit of the job as Slurm writes it: minutes, hours:minutes:seconds or days-hours", type=slurm_time, metavar="LIMIT"),
    Option("qos", SLURM, "Slurm quality of service"),
    Option("mem", SLURM, "memory per node, as Slurm writes it (64G; 0 is all of it); unset: the cluster's default"),
    Option("exclusive", SLURM, "do not share the nodes with other jobs", switch=True, default=False),
    Option("constraint", SLURM, "features that the nodes must have"),
    Option("reservation", SLURM, "reservation to run in"),
    Option("nodelist", SLURM, "nodes to run on"),
    Option("mail-type", SLURM, "events that Slurm mails about, such as END,FAIL"),
    Option("mail-user", SLURM, "who gets the mail"),
    Option("dependency", SLURM, "what the job waits for, as Slurm writes it (afterok:123)", may_be_empty=True),
    Option("requeue", SLURM, "how many times to requeue the job automatically: after the time limit, a preemption, a lost node, or a failure of a start that had saved a checkpoint", type=int, default=0, least=0, metavar="N"),
    Option("chain", SLURM, "submit N jobs, each starting when the previous one has finished or saved at its time limit", type=int, default=1, least=1, metavar="N"),
    Option("stop-before", SLURM, "seconds before the time limit at which the run saves and stops", type=int, default=300, least=0, metavar="SECONDS"),
    Option("container-mounts", SLURM, "folder to mount, HOST:CONTAINER[:FLAGS]; may be given more than once; the run's own folders are mounted automatically", many=True, metavar="MOUNT"),
    Option("container-env", SLURM, "variable that the container takes from the job's environment even if its image sets it; may be given more than once", many=True, metavar="NAME"),
    Option("container-runtime", SLURM, "what starts the container: pyxis (srun's plugin), apptainer (or singularity), or none, which is --no-container; unset: pyxis", choices=("pyxis", "apptainer", "none")),
    Option("no-container", SLURM, "run without a container: this Python environment, on a disk that the nodes share", switch=True, default=False),
    Option("setup-file", SLURM, "shell lines to run first on the first node, such as `module load`; copied with the code", metavar="FILE"),
    Option("ssh", SLURM, "submit from [USER@]HOST[:PORT], a login node that sees the same folders", metavar="HOST"),
    Option("slurm-arg", SLURM, "any other option of sbatch, as NAME=VALUE or NAME; may be given more than once", many=True, metavar="NAME=VALUE"),
    Option("precision", TRAINING, "precision of the training; unset: the recipe's (bf16-mixed in all of NeMo's)", choices=("bf16-mixed", "16-mixed", "32")),
    Option("fp8-recipe", TRAINING, "with --fp8: how scaling factors are found, in NeMo's names (tensorwise is current scaling); unset: delayed", choices=("delayed", "tensorwise", "blockwise", "mxfp8")),
    Option("fp8-output-layer", TRAINING, "with --fp8: the output layer's products in fp8 too, for models with tied embeddings", switch=True, default=False),
    Option("first-stage-layers", PARALLEL, "layers of the first pipeline stage; unset: as many as the others", type=int, least=1),
    Option("last-stage-layers", PARALLEL, "layers of the last pipeline stage, which has the output layer too; unset: as many as the others", type=int, least=1),
    Option("expert-model-parallel-size", PARALLEL, "split the experts of a mixture over this many ranks; unset: the recipe's", type=int_or_auto, short=("-EP",), sets=(f"{STRATEGY}.expert_model_parallel_size",), least=1),
    Option("layout", PARALLEL, "auto: choose -TP -PP -VPP -CP -EP, micro batch and recomputation by the plan, the fastest that fits; flags that are given keep their value. Each of these flags also takes auto", choices=("auto",)),
    Option("blend", DATA, "file with one line `WEIGHT PATH` per source, instead of --dataset-dir; PATH is a folder or a prefix, WEIGHT a number or `tokens`; max-epochs=N may come between them", metavar="FILE"),
    Option("blend-temperature", DATA, "weigh the sources (each --dataset-dir or line of --blend) by weight ** (1/T): above 1 small ones count for more", type=float, metavar="T", above=0),
    Option("max-epochs-per-source", DATA, "repeat no source more often than this; the other sources fill the gap", type=float, metavar="N", above=0),
    Option("validation-dir", DATA, "folder or prefix used whole as a separate validation set, as NAME=DIR or DIR (named after the folder); its loss is computed before the first step and at each validation; may be given more than once", many=True, metavar="[NAME=]DIR"),
    Option("seq-length", TRAINING, "tokens per sequence; unset: the recipe's", type=int, sets=("data.seq_length", f"{MODEL}.seq_length"), least=1),
    Option("seed", TRAINING, "seed of weights, dropout and data order", type=int, default=1234, sets=("data.seed",), least=0),
    Option("optimizer", OPTIMIZER, "adam or sgd; unset: the recipe's", choices=("adam", "sgd"), sets=(f"{OPTIM}.optimizer",)),
    Option("optimizer-precision", OPTIMIZER, "precision of Adam's two moments; bf16 takes 4 bytes per parameter less, with --precision bf16-mixed on a GPU; unset: the recipe's (fp32 but in deepseek_v3)", choices=("fp32", "bf16")),
    Option("grad-reduce-in-bf16", OPTIMIZER, "sum gradients over micro batches and GPUs in bf16, as NVIDIA's performance recipes do: 2 bytes per parameter less, and half the traffic; with --precision bf16-mixed", switch=True, default=False),
    Option("lr", OPTIMIZER, "highest learning rate; unset: the recipe's", type=float, sets=(f"{OPTIM}.lr",), above=0),
    Option("min-lr", OPTIMIZER, "learning rate at the end of the decay; unset: the recipe's, never above a tenth of --lr", type=float, sets=(f"{SCHEDULE}.min_lr",), least=0),
    Option("warmup-steps", OPTIMIZER, "steps of linear warm-up; unset: the recipe's, at most a tenth of the run", type=int, sets=(f"{SCHEDULE}.warmup_steps",), least=0),
    Option("constant-steps", OPTIMIZER, "steps at the lowest rate after the decay; unset: the recipe's", type=int, sets=(f"{SCHEDULE}.constant_steps",), least=0),
    Option("lr-schedule", OPTIMIZER, "learning rate after the warm-up: cosine (down over the whole run), linear, constant, or wsd (constant, then down in the last --decay-steps); unset: the recipe's", choices=("cosine", "linear", "constant", "wsd")),
    Option("decay-steps", OPTIMIZER, "steps of the decay at the end, with wsd or --decay-from; unset: a tenth of the steps", type=int, least=1),
    Option("decay-style", OPTIMIZER, "form of that decay, in Megatron's names; unset: minus_sqrt", choices=("minus_sqrt", "linear", "cosine", "exponential")),
    Option("decay-from", OPTIMIZER, "checkpoint folder of another experiment's constant or wsd run: this experiment continues exactly from there, with a decay to --min-lr", metavar="CHECKPOINT"),
    Option("weight-decay", OPTIMIZER, "weight decay; unset: the recipe's", type=float, sets=(f"{OPTIM}.weight_decay",), least=0),
    Option("adam-beta1", OPTIMIZER, "Adam's first beta; unset: the recipe's", type=float, sets=(f"{OPTIM}.adam_beta1",), least=0),
    Option("adam-beta2", OPTIMIZER, "Adam's second beta; unset: the recipe's", type=float, sets=(f"{OPTIM}.adam_beta2",), least=0),
    Option("clip-grad", OPTIMIZER, "largest gradient norm; unset: the recipe's", type=float, sets=(f"{OPTIM}.clip_grad",), least=0),
    Option("disable-dist-optim", OPTIMIZER, "keep the whole optimizer state on every data-parallel rank", switch=True, default=False),
    Option("split", DATA, "parts for training, validation and test", default="900,50,50", sets=("data.split",)),
    Option("val-check-interval", TRAINING, "steps between validations; unset: the recipe's, at most a tenth of the run", type=int, sets=("trainer.val_check_interval",), least=1),
    Option("output-dir", LOGGING, "where experiments are written", default=OUTPUT_DIR, metavar="DIR"),
    Option("save-every", CHECKPOINTS, "steps between checkpoints; unset: the validation interval", type=int, sets=("log.ckpt.every_n_train_steps",), least=1),
    Option("keep-checkpoints", CHECKPOINTS, "newest checkpoints kept, beside the one that a start resumed from; -1 keeps all", type=int, default=2, least=-1),
    Option("allow-change", CHECKPOINTS, "let a resumed run change this (dataset, split, seq-length, seed or tokenizer), and with tokenizer train on data, or from a checkpoint of --nemo-model, that was made with another tokenizer; may be given more than once", many=True, choices=("dataset", "split", "seq-length", "seed", "tokenizer")),
    Option("on-save-error", CHECKPOINTS, "when a checkpoint can't be written (a full disk): stop, or continue without it", default="stop", choices=("stop", "continue")),
    Option("on-nan", TRAINING, "on a NaN or infinite gradient: stop before the update, or 'skip N': leave out up to N such steps", type=on_nan, default="stop", words=True, metavar="stop|skip N"),
    Option("deterministic", TRAINING, "use only algorithms whose results are bit-for-bit identical in every run; slower on a GPU", switch=True, default=False, sets=(f"{MODEL}.deterministic_mode",)),
    Option("max-restarts", EXECUTION, "how many times to restart all ranks automatically, from the newest checkpoint, after a signal, a CUDA or NCCL error or a hang; only if a checkpoint was saved since the last restart; not with --executor slurm", type=int, default=0, least=0),
    Option("timeout-minutes", EXECUTION, "minutes without a step after which all ranks' stacks are written to their logs and the run ends (on Slurm --requeue brings it back); until a start's first step at least 60; 0: never", type=float, default=30.0, least=0),
    Option("grace-seconds", EXECUTION, "seconds to finish the step when asked to stop, before the ranks are ended; a save under way is waited for; unset: twice the last step's time, 8 on a CPU and 60 on GPUs at least", type=float, least=0),
    Option("sample", LOGGING, "after training, export the newest checkpoint to hf_model/ in the run's folder and print how it continues TEXT", metavar="TEXT"),
    Option("profile", LOGGING, "steps (5-7, or 5) to record with torch's profiler on rank 0: a trace in profile/ of the run's folder, the costliest kernels in the report; on a GPU each rank also leaves a memory snapshot when it runs out of memory", type=step_range, metavar="STEPS"),
    Option("export-hf", LOGGING, "export a verified Hugging Face model to hf_model/ in the run's folder: the last checkpoint (end), or also those saved during training (save; a save is skipped while another export is running)", choices=("end", "save")),
    Option("push-to-hub", LOGGING, "with --export-hf: upload the last exported model to the Hugging Face Hub as ORG/NAME, private unless it is there already; HF_TOKEN is read from the environment", metavar="ID"),
    Option("log-every", LOGGING, "steps between two lines of the log", type=int, default=10, least=1),
]

# Flags of the command itself: they can't stand in a --config file.
_COMMAND = [
    Option("wait", SLURM, "follow the job until it ends, and exit with its exit code", switch=True, default=False),
    Option("dry-run", EXECUTION, "print the plan of the run and stop; json for programs", choices=("text", "json"), bare="text"),
    Option("suggest", PARALLEL, "print the N best layouts for -N nodes of -G GPUs by the plan and stop; without -N and -G the best for 1, 2, 4 … 64 GPUs", type=int, metavar="N", bare=SUGGESTIONS, least=1),
    Option("max-memory", PARALLEL, "with --suggest: GiB that each GPU may use; unset: what --layout auto fills", type=float, metavar="GIB", above=0),
    Option("deadline", PARALLEL, "with --suggest: time that the run may take, such as 24h, 90m or 3d; layouts with the fewest GPUs that meet it come first", type=duration, metavar="TIME"),
    Option("calibrate", EXECUTION, "scale the time plan to the speed that RUN (an experiment or its folder) really had, for all runs below --output-dir, and stop", metavar="RUN"),
    Option("list-models", MODEL_GROUP, "print the recipes whose name contains WORD and stop", metavar="WORD", bare="", may_be_empty=True),
    Option("completion", EXECUTION, "print the shell's script that completes this command's flags and stop (needs shtab): eval \"$(python pretrain_llm.py --completion bash)\", or for fish: python pretrain_llm.py --completion fish | source", choices=("bash", "zsh", "fish", "tcsh")),
    Option("version", EXECUTION, "print the versions of this project, Python, NeMo, Megatron and torch, and stop", switch=True, default=False),
    Option("config", EXECUTION, "read flags from a YAML file; flags on the command line win", metavar="FILE"),
]
# fmt: on


def _in_guide(option: Option) -> Option:
    return Option(**{**option.__dict__, "guide": True})


TABLE: tuple[Option, ...] = tuple(
    sorted([*map(_in_guide, _GUIDE), *_OURS, *_COMMAND], key=lambda o: GROUPS.index(o.group))
)
BY_ATTRIBUTE = {option.attribute: option for option in TABLE}
COMMAND_ATTRIBUTES = frozenset(option.attribute for option in _COMMAND)
