"""Every rule that a run must meet before anything is launched. Each problem names flag, value and mend.

The rules are what megatron-core, NeMo and Transformer Engine assert deep in a run, or, worse, ignore. A rule is a
function that yields its problems; it yields nothing where what it needs couldn't be found out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_workflow import machine
from nemo_workflow.catalog import Recipe
from nemo_workflow.conversion import families
from nemo_workflow.largest_token import largest_token
from nemo_workflow.layout import Layout, layers_a_stage
from nemo_workflow.options import TABLE, Settings
from nemo_workflow.plan import Source
from nemo_workflow.pretrained import NemoModel, Tokenizer
from nemo_workflow.schedule import Schedule
from nemo_workflow.splits import PARTS, Part

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
GPU_ONLY = "train on a GPU, or leave it out"


@dataclass
class Run:
    """What is known of a run when its rules are checked; None or empty where it couldn't be found out."""

    settings: Settings
    accelerator: str
    recipe: Recipe | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    seq_length: int = 0
    vocab_size: int = 0
    hf_folder: Path | None = None
    hf_config: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    nemo_model: NemoModel | None = None
    layout: Layout | None = None
    sources: tuple[Source, ...] = ()
    parts: tuple[tuple[Part, ...], ...] = ()
    schedule: Schedule | None = None
    notes: list[str] = field(default_factory=list)

    def samples(self, part: int) -> int:
        """Samples an epoch of the training (0), validation (1) or test (2) parts of all sources."""
        return sum(parts[part].samples(self.seq_length) for parts in self.parts)

    def given(self, *attributes: str) -> list[str]:
        """Those of the flags that the user set, as they are written."""
        return [f"--{name.replace('_', '-')}" for name in attributes if name in self.settings.given]

    def effective(self, attribute: str) -> Any:
        """A recompute flag's value, or the recipe's own where the flag is unset."""
        value = getattr(self.settings, attribute)
        return value if value is not None or self.settings.recompute_granularity else self.sizes.get(attribute)


def find_problems(run: Run) -> list[str]:
    """Every broken rule. A value out of range is reported alone: the other rules would only repeat it."""
    out_of_range = [*smallest_values(run)]
    return out_of_range or [problem for rule in RULES for problem in rule(run)]


def smallest_values(run: Run) -> Iterator[str]:
    for option in TABLE:
        value = run.settings.values[option.attribute]
        if option.least is not None and value is not None and not option.least <= value < float("inf"):
            yield f"--{option.name} {value}: must be {option.least} or more"
    settings = run.settings
    if settings.keep_checkpoints == 0:
        yield "--keep-checkpoints 0: would delete the run's only checkpoint; keep 1 or more, or -1 for all"
    for name in ("adam_beta1", "adam_beta2"):
        if (value := getattr(settings, name)) is not None and value >= 1:
            yield f"--{name.replace('_', '-')} {value}: must be below 1"
    if settings.lr == 0:
        yield "--lr 0.0: must be above 0"
    if settings.optim_cpu_offloading_frac > 1:
        yield f"--optim-cpu-offloading-frac {settings.optim_cpu_offloading_frac}: must be between 0 and 1"


def experiment_name(run: Run) -> Iterator[str]:
    name = run.settings.experiment
    if not re.fullmatch(r"\w[\w.+=-]*", name) or len(name.encode()) > 200:
        yield f"--experiment {name!r}: no folder name; use letters, digits, and . _ + = - after the first"


def paths_are_text(run: Run) -> Iterator[str]:
    """Paths travel to the ranks as JSON and into checkpoints as YAML: any text may be in them, blanks and newlines too."""
    settings = run.settings
    named = {name: getattr(settings, name) for name in ("hf_model_id", "nemo_model", "blend")}
    paths = [(f"--{name.replace('_', '-')}", path) for name, path in named.items() if path]
    paths += [("--output-dir", str(Path(settings.output_dir).expanduser().absolute()))]
    paths += [("--dataset-dir", folder) for folder in settings.dataset_dir]
    paths += [("data", f"{source.pair.prefix}.bin") for source in run.sources]
    for flag, path in paths:
        if any("\ud800" <= sign <= "\udfff" for sign in path):
            yield f"{flag} {path.encode('utf-8', 'backslashreplace').decode()}: no UTF-8; rename it"


def wandb_flags(run: Run) -> Iterator[str]:
    settings = run.settings
    idle = run.given("wandb_project", "wandb_name", "wandb_token")
    if idle and not settings.wandb:
        yield f"{', '.join(idle)}: does nothing without --wandb; add --wandb or leave it out"


def wandb_logged_in() -> bool:
    """Whether `wandb login` has left a key."""
    try:
        keys = Path(os.environ.get("NETRC", "~/.netrc")).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError):
        keys = ""
    return "api.wandb.ai" in keys or "WANDB_BASE_URL" in os.environ  # of another server we can't tell


def sample_text(run: Run) -> Iterator[str]:
    text = run.settings.sample
    if text is None:
        return
    if not text.strip():
        yield "--sample: give the text that the model is to go on with, or leave it out"
    if run.settings.executor == "slurm":
        yield (
            "--sample: only with --executor local; leave it out, and when the job has ended export a checkpoint with"
            " ckpt_conversion/convert_from_nemo2_to_hf.py and let python -m nemo_workflow.sample go on with a text"
        )
    if run.recipe and run.recipe.model_class not in {family.model_class for family in families.FAMILIES}:
        reason = families.NOT_CONVERTED.get(run.recipe.model_class, "NeMo has no converter for it")
        yield f"--sample: {run.recipe.name} can't be exported to Hugging Face: {reason}; leave it out"


def machine_size(run: Run) -> Iterator[str]:
    settings = run.settings
    if settings.executor == "slurm":
        return
    if settings.num_nodes > 1:
        yield f"--num-nodes {settings.num_nodes}: --executor local runs on this machine only; use --executor slurm"
    if run.accelerator != "gpu" or settings.dry_run:
        return  # a plan may be for another machine
    found = machine.gpu_count() if machine.has_gpu() else 0
    if found is not None and run.layout and run.layout.ranks_per_node > found:
        mend = f"--num-gpus {found}" if found else "--accelerator cpu"
        yield f"--num-gpus {run.layout.ranks_per_node}: this machine has {found} GPUs to offer; use {mend}"


def cpu_limits(run: Run) -> Iterator[str]:
    """What gloo and a machine without Transformer Engine can't do, or, as fp8, would leave out without a word."""
    if run.accelerator != "cpu":
        return
    settings = run.settings
    switches = ("fp8", "cpu_offloading", "optim_cpu_offloading")
    for name in (name for name in switches if getattr(settings, name)):
        yield f"--{name.replace('_', '-')}: a CPU can't; {GPU_ONLY}"
    if settings.context_parallel_size > 1:
        yield f"--context-parallel-size {settings.context_parallel_size}: needs Transformer Engine; {GPU_ONLY}"
    if settings.precision == "16-mixed":
        yield "--precision 16-mixed: its loss scaling needs a GPU; use bf16-mixed or 32"
    if run.recipe is None:
        return
    if run.sizes.get("multi_latent_attention"):
        yield f"--model-name {run.recipe.name}: multi-latent attention needs Transformer Engine; train on a GPU"
    elif run.recipe.parameters is None:
        yield f"--model-name {run.recipe.name}: its layers need Transformer Engine or mamba-ssm; train on a GPU"
    elif run.recipe.precision["fp8"] and settings.precision is None:
        yield f"--model-name {run.recipe.name}: the recipe trains in fp8, which a CPU can't; add --precision bf16-mixed"


def precision_flags(run: Run) -> Iterator[str]:
    settings = run.settings
    if settings.fp8_recipe and not settings.fp8:
        yield f"--fp8-recipe {settings.fp8_recipe}: does nothing without --fp8; add --fp8 or leave it out"
    if settings.fp8 and settings.precision == "32":
        yield "--fp8: goes with bf16-mixed or 16-mixed, not with --precision 32; leave one of them out"
    if settings.fp8 and run.layout and run.seq_length:
        split = settings.context_parallel_size * (
            settings.tensor_model_parallel_size if settings.sequence_parallel else 1
        )
        tokens = settings.micro_batch_size * run.seq_length / split
        if tokens % 16:
            yield f"--fp8: {tokens:g} tokens a rank is no multiple of 16; change --seq-length or --micro-batch-size"


def _optimizer(run: Run) -> str:
    return run.settings.optimizer or (run.recipe.fields["optim.config.optimizer"] if run.recipe else "adam")


def optimizer_flags(run: Run) -> Iterator[str]:
    schedule = run.schedule
    idle = run.given("adam_beta1", "adam_beta2") if _optimizer(run) == "sgd" else []
    if idle:
        yield f"{', '.join(idle)}: does nothing with --optimizer sgd; leave it out"
    if schedule is None:
        return
    if schedule.min_lr > schedule.lr:
        yield f"--min-lr {schedule.min_lr:g}: above the learning rate {schedule.lr:g}; lower --min-lr or raise --lr"
    if schedule.warmup_steps > schedule.max_steps:
        yield (
            f"--warmup-steps {schedule.warmup_steps}: longer than the run of {schedule.max_steps} steps;"
            " lower --warmup-steps or raise --max-steps"
        )
    elif schedule.warmup_steps + schedule.constant_steps > schedule.max_steps:
        yield (
            f"--constant-steps {schedule.constant_steps}: with {schedule.warmup_steps} steps of warm-up longer than the"
            f" run of {schedule.max_steps} steps; lower --constant-steps or raise --max-steps"
        )
    if schedule.val_check_interval > schedule.max_steps:
        yield (
            f"--val-check-interval {schedule.val_check_interval}: longer than the run of {schedule.max_steps} steps, so"
            " it would never validate; lower it"
        )


def lacking_fields(run: Run) -> Iterator[str]:
    if run.recipe is None:
        return
    for option in TABLE:
        missing = [path for path in option.sets if path in run.recipe.lacks]
        if missing and option.attribute in run.settings.given:
            yield f"--{option.name}: recipe {run.recipe.name} has no field {missing[0]}; leave it out"


def rank_split(run: Run) -> Iterator[str]:
    """Ranks over tensor, pipeline, context and expert parallelism."""
    if run.layout is None:
        return
    layout = run.layout
    size = layout.tensor * layout.pipeline * layout.context
    if layout.ranks % size:
        yield (
            f"--num-gpus {layout.ranks_per_node} x --num-nodes {layout.nodes}: {layout.ranks} ranks are no multiple of"
            f" TP x PP x CP = {layout.tensor} x {layout.pipeline} x {layout.context} = {size};"
            " change the ranks or the parallel sizes"
        )
        return
    yield from _expert_split(run, layout)
    settings = run.settings
    each = settings.micro_batch_size * layout.data
    if settings.global_batch_size % each:
        yield (
            f"--global-batch-size {settings.global_batch_size}: no multiple of micro batch size x data parallel size ="
            f" {settings.micro_batch_size} x {layout.data} = {each}; use {_near_multiples(settings.global_batch_size, each)}"
        )


def _near_multiples(value: int, step: int) -> str:
    below = value // step * step
    return f"{below} or {below + step}" if below else f"{step}"


def _expert_split(run: Run, layout: Layout) -> Iterator[str]:
    experts = run.sizes.get("num_moe_experts")
    named = f"--expert-model-parallel-size {layout.expert}"
    if "expert_model_parallel_size" not in run.settings.given and run.recipe:
        named += f" (recipe {run.recipe.name}'s own)"
    if layout.expert > 1 and run.recipe and not experts:
        yield f"{named}: recipe {run.recipe.name} has no experts; leave it out"
        return
    if experts and experts % layout.expert:
        yield f"{named}: doesn't divide the {experts} experts; use a divisor of {experts}"
    size = layout.pipeline * layout.expert * (layout.expert_tensor or layout.tensor)
    if layout.expert > 1 and layout.ranks % size:
        yield (
            f"{named}: {layout.ranks} ranks are no multiple of PP x EP x the ranks an expert is split over = {size};"
            " lower it or use more GPUs"
        )
    if experts and layout.tensor > 1 and not layout.sequence_parallel:
        yield (
            f"--tensor-model-parallel-size {layout.tensor}: a mixture of experts needs --sequence-parallel with it;"
            " add --sequence-parallel"
        )


def tensor_split(run: Run) -> Iterator[str]:
    """What is divided by the tensor parallel size must divide (megatron-core: TransformerConfig, MambaMixer)."""
    if run.layout is None or run.recipe is None or run.layout.tensor == 1:
        if run.layout and run.layout.sequence_parallel and run.layout.tensor == 1:
            yield "--sequence-parallel: needs --tensor-model-parallel-size 2 or more; leave it out"
        return
    tensor, sizes = run.layout.tensor, run.sizes
    parts = {
        "attention heads": sizes.get("num_attention_heads"),
        "groups of keys and values": sizes.get("num_query_groups") or sizes.get("num_attention_heads"),
        "columns of the MLP": sizes.get("ffn_hidden_size"),
    }
    if "M" in str(sizes.get("hybrid_override_pattern") or "") and run.recipe.family == "ssm":
        heads = sizes.get("mamba_num_heads") or 2 * sizes["hidden_size"] // sizes["mamba_head_dim"]
        parts = {"Mamba heads": heads, "Mamba groups": sizes["mamba_num_groups"]}
        if "*" in sizes["hybrid_override_pattern"]:
            parts["groups of keys and values"] = sizes["num_query_groups"] or sizes["num_attention_heads"]
    for what, number in parts.items():
        if number and number % tensor:
            yield (
                f"--tensor-model-parallel-size {tensor}: doesn't divide the {number} {what} of {run.recipe.name};"
                f" use a divisor of {number}"
            )


def pipeline_split(run: Run) -> Iterator[str]:
    """Layers over stages and virtual stages."""
    layout, recipe = run.layout, run.recipe
    if layout is None or recipe is None:
        return
    virtual = f"--virtual-pipeline-model-parallel-size {layout.virtual_pipeline}"
    if layout.virtual_pipeline > 1 and layout.pipeline == 1:
        yield f"{virtual}: needs --pipeline-model-parallel-size 2 or more; leave it out"
        return
    try:
        stages = layers_a_stage(run.sizes, recipe.layout, layout)
    except ValueError as error:
        yield f"--pipeline-model-parallel-size {layout.pipeline}: can't split {error} of {recipe.name} evenly"
        return
    if layout.virtual_pipeline > 1:
        yield from _virtual_split(run, layout, recipe, stages, virtual)


def _virtual_split(run: Run, layout: Layout, recipe: Recipe, stages: list[int], named: str) -> Iterator[str]:
    if recipe.family != "gpt":
        yield f"{named}: the models of {recipe.name} can't be cut into virtual stages; leave it out"
        return
    counted = sum(stages) + recipe.layout["embedding_counts"] + recipe.layout["loss_counts"]
    if counted // layout.pipeline % layout.virtual_pipeline:
        yield f"{named}: doesn't divide the {counted // layout.pipeline} layers of a stage; use a divisor of it"
    micro = layout.micro_batches(run.settings.global_batch_size, run.settings.micro_batch_size)
    if micro % layout.pipeline:
        yield (
            f"{named}: the {micro} micro batches of a step are no multiple of"
            f" --pipeline-model-parallel-size {layout.pipeline}; change --global-batch-size"
        )


def sequence_length(run: Run) -> Iterator[str]:
    if run.recipe is None or run.layout is None or not run.seq_length:
        return
    layout, length = run.layout, run.seq_length
    if layout.context > 1 and length % (2 * layout.context):
        yield (
            f"--seq-length {length}: no multiple of 2 x --context-parallel-size = {2 * layout.context}, in which each"
            " rank takes an early and a late piece; use one"
        )
    elif layout.sequence_parallel and length // layout.context % layout.tensor:
        yield (
            f"--seq-length {length}: the {length // layout.context} tokens of a context parallel rank are no multiple of"
            f" --tensor-model-parallel-size {layout.tensor}, as --sequence-parallel needs; use one"
        )
    longest = _longest_sequence(run, run.recipe)
    if longest and length > longest:
        yield (
            f"--seq-length {length}: {run.recipe.name} is made for at most {longest} tokens; lower it, or take a recipe"
            " for longer sequences (--list-models)"
        )


def _longest_sequence(run: Run, recipe: Recipe) -> int | None:
    """Tokens that the positions of the model allow; None where any number may be trained from scratch."""
    if recipe.family == "gpt" and run.sizes.get("position_embedding_type") == "learned_absolute":
        return run.sizes["seq_length"] if run.nemo_model else None  # a table of positions, made as long as asked
    if recipe.longest_sequence is None:
        return None
    return max(recipe.longest_sequence, int(run.hf_config.get("max_position_embeddings") or 0))


def recompute(run: Run) -> Iterator[str]:
    settings = run.settings
    granularity = settings.recompute_granularity
    extra = run.given("recompute_method", "recompute_num_layers")
    if extra and granularity != "full":
        own = run.sizes.get("recompute_granularity") if granularity is None else None
        if own != "full":
            yield f"{', '.join(extra)}: only goes with --recompute-granularity full; add it or leave them out"
            return
    if granularity == "full":
        missing = [
            f"--{name.replace('_', '-')}"
            for name in ("recompute_method", "recompute_num_layers")
            if getattr(settings, name) is None
        ]
        if missing:
            yield f"--recompute-granularity full: needs {' and '.join(missing)} too, e.g. {_recompute_example(missing)}"
    if settings.recompute_num_layers and run.layout and run.recipe:
        try:
            stage = max(layers_a_stage(run.sizes, run.recipe.layout, run.layout)) // run.layout.virtual_pipeline
        except ValueError:
            return  # said by the pipeline's own rule
        if settings.recompute_num_layers > stage:
            yield (
                f"--recompute-num-layers {settings.recompute_num_layers}: a (virtual) pipeline stage has {stage} layers;"
                f" use 1 to {stage}"
            )


def _recompute_example(missing: list[str]) -> str:
    examples = {"--recompute-method": "uniform", "--recompute-num-layers": "1"}
    return " ".join(f"{name} {examples[name]}" for name in missing)


def cpu_offloading(run: Run) -> Iterator[str]:
    settings = run.settings
    idle = run.given("cpu_offloading_layers", "cpu_offloading_activations", "cpu_offloading_weights")
    if idle and not settings.cpu_offloading:
        yield f"{', '.join(idle)}: does nothing without --cpu-offloading; add --cpu-offloading or leave it out"
    if not settings.cpu_offloading:
        return
    if not settings.cpu_offloading_activations and not settings.cpu_offloading_weights:
        yield "--cpu-offloading: nothing to offload; add --cpu-offloading-activations"
    elif not settings.cpu_offloading_activations:
        yield (
            "--cpu-offloading-weights: Transformer Engine 2.9 offloads no weights any more, and a run with weights alone"
            " breaks off at its first step; use --cpu-offloading-activations"
        )
    layers = settings.cpu_offloading_layers
    if layers is None:
        yield "--cpu-offloading: needs --cpu-offloading-layers, the number of layers to offload"
    elif run.sizes and layers >= run.sizes["num_layers"]:
        yield f"--cpu-offloading-layers {layers}: must be below the model's {run.sizes['num_layers']} layers"
    if settings.recompute_granularity:
        yield "--cpu-offloading: can't be combined with --recompute-granularity; leave one of them out"
    elif run.effective("recompute_granularity") and run.recipe:
        yield f"--cpu-offloading: recipe {run.recipe.name} recomputes activations, which can't be combined; leave it out"
    if settings.pipeline_model_parallel_size > 1:
        yield (
            f"--cpu-offloading: can't be combined with --pipeline-model-parallel-size"
            f" {settings.pipeline_model_parallel_size}; use 1 stage"
        )
    if settings.fp8:
        yield "--cpu-offloading: can't be combined with --fp8; leave one of them out"


def optimizer_offloading(run: Run) -> Iterator[str]:
    """megatron-core's optimizer on the host is Adam, over the shards of the distributed optimizer."""
    settings = run.settings
    if not settings.optim_cpu_offloading:
        if run.given("optim_cpu_offloading_frac"):
            yield "--optim-cpu-offloading-frac: does nothing without --optim-cpu-offloading; add it or leave this out"
        return
    if settings.disable_dist_optim:
        yield "--optim-cpu-offloading: needs the distributed optimizer; leave --disable-dist-optim out"
    if _optimizer(run) == "sgd":
        yield "--optim-cpu-offloading: only Adam's states can be offloaded; leave it or --optimizer sgd out"


def checkpoint_fits(run: Run) -> Iterator[str]:
    """The architecture of --nemo-model against --model-name."""
    model, recipe = run.nemo_model, run.recipe
    if model and recipe and model.model_class != recipe.model_class:
        yield (
            f"--nemo-model {run.settings.nemo_model}: holds a {model.model_class}, but --model-name {recipe.name} is a"
            f" {recipe.model_class}; name a recipe of its family or leave --model-name out"
        )


def enough_data(run: Run) -> Iterator[str]:
    if not run.parts or not run.seq_length or run.recipe is None:
        return
    batch = run.settings.global_batch_size
    if run.samples(0) < batch:
        yield (
            f"--global-batch-size {batch}: the training split holds {run.samples(0)} samples of {run.seq_length} tokens,"
            " less than one step; lower --global-batch-size or --seq-length, or add data"
        )
        return
    for index, name in enumerate(PARTS):
        # Megatron builds every part of every source, and never ends on one without tokens
        for source, parts in zip(run.sources, run.parts, strict=True):
            needed = 1 if name == "validation" else 0
            if parts[index].share and (parts[index].samples(run.seq_length) < needed or not parts[index].tokens):
                mend = "give this part more, or 0 to do without" if index else "give it more, or leave this file out"
                yield (
                    f"--split {run.settings.split}: no {name} sample in {Path(source.pair.prefix).name}"
                    f" ({parts[index].sequences} documents, {parts[index].tokens} tokens); {mend}"
                )


def tokenizer_fits(run: Run) -> Iterator[str]:
    """The tokenizer's files, its end-of-document token, and its vocabulary against the data."""
    tokenizer = run.tokenizer
    name = run.settings.hf_model_id
    if tokenizer is None:
        return
    if not any((tokenizer.folder / file).is_file() for file in TOKENIZER_FILES):
        if not list(tokenizer.folder.glob("*.tiktoken")):
            yield f"--hf-model-id {name}: no tokenizer files in it; give a folder with tokenizer.json, or a hub id"
        return
    if tokenizer.eos is None and tokenizer.plain and run.recipe and run.recipe.family != "bert":
        yield (
            f"--hf-model-id {name}: the tokenizer has no end-of-document token; set eos_token in its"
            " tokenizer_config.json"
        )
    vocabulary = max(tokenizer.vocab_size or 0, run.sizes.get("vocab_size") or 0)
    if not tokenizer.vocab_size:
        return
    for source in run.sources:
        largest = largest_token(source.pair)
        if largest is not None and largest >= vocabulary:
            yield (
                f"{source.pair.prefix}.bin: holds token id {largest}, but the tokenizer of --hf-model-id {name} has"
                f" {vocabulary} entries; preprocess it with this tokenizer or give the one it was made with"
            )


RULES = (
    experiment_name,
    paths_are_text,
    machine_size,
    checkpoint_fits,
    lacking_fields,
    cpu_limits,
    precision_flags,
    optimizer_flags,
    rank_split,
    tensor_split,
    pipeline_split,
    sequence_length,
    recompute,
    cpu_offloading,
    optimizer_offloading,
    enough_data,
    tokenizer_fits,
    wandb_flags,
    sample_text,
)
