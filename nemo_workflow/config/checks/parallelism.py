"""How ranks share the model: data, tensor, pipeline, context and expert parallelism, and the sequence length that they split."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.checks.hardware import cores_short_of, ranks_that_fit
from nemo_workflow.config.parallelism import Layout, ends_of, enough_for_chunks, layers_a_stage, left_for_others
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.utils.console import counted, one_of


def _ranks_that_fit(layout: Layout, size: int) -> str:
    """' (-G 4)': the next larger number of GPUs, where one machine has all ranks."""
    return f" (-G {-(-layout.ranks // size) * size})" if layout.nodes == 1 else ""


def rank_split(run: Run) -> Iterator[str]:
    """parallel_state.initialize_model_parallel (megatron-core 0.15.3): ranks divide by TP x PP x CP, the batch by
    micro batch x DP.
    """
    if run.layout is None:
        return
    layout = run.layout
    size = layout.tensor * layout.pipeline * layout.context
    if layout.ranks % size:
        yield (
            f"--num-gpus {layout.ranks_per_node} x --num-nodes {layout.nodes}: {_ranks_are(layout)} not a multiple of"
            f" TP x PP x CP = {layout.tensor} x {layout.pipeline} x {layout.context} = {size};"
            f" change the ranks{_ranks_that_fit(layout, size)} or the parallel sizes"
        )
        return
    yield from _expert_split(run, layout)
    settings = run.settings
    each = settings.micro_batch_size * layout.data
    if settings.global_batch_size % each:
        yield (
            f"--global-batch-size {run.batch_words}: not a multiple of micro batch size x data parallel size ="
            f" {settings.micro_batch_size} x {layout.data} = {each}; {_what_helps(run, layout, each)}"
        )


def _what_helps(run: Run, layout: Layout, each: int) -> str:
    """All of it at once: who follows the first message mustn't meet a second, of too few samples for one."""
    most = run.samples(0) if run.parts and run.seq_length else None
    batches = _near_multiples(run.settings.global_batch_size, each, most)
    ways = [f"use {' or '.join(map(str, batches))}"] if batches else []
    if size := _smaller_micro_batch(run, layout, most):
        ways.append(f"keep it and use --micro-batch-size {size}")
    if not ways and most is not None and (per_rank := most // layout.data):
        ways.append(f"use -gbs {per_rank * layout.data} -mbs {per_rank}, for the data has {counted(most, 'sample')}")
    if not ways:
        few = f"the training split holds {counted(most or 0, 'sample')}, fewer than that"
        ways.append(f"{few}; lower --num-gpus or --seq-length, or add data")
    return f"{', or '.join(ways)}{_as_many_as_cores(run, layout, most)}"


def _smaller_micro_batch(run: Run, layout: Layout, most: int | None) -> int | None:
    """The micro batch with which the batch may stay as it is, where there is one; `most` are the samples that there are."""
    per_rank, rest = divmod(run.settings.global_batch_size, layout.data)
    if rest or not per_rank or (most is not None and run.settings.global_batch_size > most):
        return None
    return next(size for size in range(min(per_rank, run.settings.micro_batch_size), 0, -1) if per_rank % size == 0)


def _as_many_as_cores(run: Run, layout: Layout, most: int | None) -> str:
    """More processes than a CPU has cores are seldom meant: the number with which nothing else need change."""
    cores = cores_short_of(run)
    if cores is None:
        return ""
    best = None if most is not None and run.settings.global_batch_size > most else ranks_that_fit(run, cores)
    said = f"; this machine has {counted(cores, 'core')}, on which {layout.ranks_per_node} processes take turns"
    return said + (f": --num-gpus {best} is faster, and nothing else has to change" if best else "")


def _near_multiples(value: int, step: int, most: int | None) -> list[int]:
    """The multiples of `step` beside `value`, none above `most`; the largest up to `most` where both are."""
    below = value // step * step
    near = [number for number in (below, below + step) if number and (most is None or number <= most)]
    return near or [number for number in ((most or 0) // step * step,) if number]


def _ranks_are(layout: Layout) -> str:
    return f"{counted(layout.ranks, 'rank')} {'is' if layout.ranks == 1 else 'are'}"


def _expert_split(run: Run, layout: Layout) -> Iterator[str]:
    """ModelParallelConfig and parallel_state (megatron-core 0.15.3): experts and ranks divide by the expert
    parallel size.
    """
    experts = run.sizes.get("num_moe_experts")
    named = f"--expert-model-parallel-size {layout.expert}"
    if "expert_model_parallel_size" not in run.settings.given and run.recipe:
        named += f" (recipe {run.recipe.name}'s own)"
    if layout.expert > 1 and run.recipe and not experts:
        yield f"{named}: recipe {run.recipe.name} has no experts; leave it out"
        return
    others = layout.pipeline * (layout.expert_tensor or layout.tensor)
    size = others * layout.expert
    if experts and experts % layout.expert:
        yield f"{named}: doesn't divide the {experts} experts; use {_divisors(experts, layout.ranks // others)}"
    elif layout.expert > 1 and layout.ranks % size:
        # what the other sizes need as well
        whole = math.lcm(size, layout.tensor * layout.pipeline * layout.context)
        yield (
            f"{named}: {_ranks_are(layout)} not a multiple of PP x EP x the ranks an expert is split over = {size};"
            f" use {_divisors(experts or 1, layout.ranks // others)}, or a multiple of {whole} GPUs"
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
    parts["rows of the vocabulary"] = sizes.get("vocab_size")  # a checkpoint's own, which no padding changes
    divided = {what: number for what, number in parts.items() if number}
    wrong = [f"{number} {what}" for what, number in divided.items() if number % tensor]
    if wrong:
        # a divisor of one alone may not divide the next
        yield (
            f"--tensor-model-parallel-size {tensor}: doesn't divide the {' and the '.join(wrong)} of {run.recipe.name};"
            f" use {_divisors(math.gcd(*divided.values()), run.layout.ranks // run.layout.pipeline // run.layout.context)}"
        )


def _divisors(whole: int, ranks: int) -> str:
    """'1, 2 or 4': the divisors of `whole`, those that divide the ranks too where that is more than 1."""
    every = [number for number in range(1, whole + 1) if whole % number == 0]
    fitting = [number for number in every if ranks % number == 0]
    return one_of(fitting if len(fitting) > 1 else every)


def pipeline_split(run: Run) -> Iterator[str]:
    """TransformerConfig.__post_init__ (megatron-core 0.15.3): layers divide over stages and virtual stages."""
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
        if _named_ends(layout):
            return  # said by stage_ends
        even = _even_stages(run, layout, recipe)
        yield f"--pipeline-model-parallel-size {layout.pipeline}: can't split {error} of {recipe.name} evenly; use {even}"
        return
    if layout.virtual_pipeline > 1:
        yield from _virtual_split(run, layout, recipe, stages, virtual)


def _even_stages(run: Run, layout: Layout, recipe: Recipe) -> str:
    """The numbers of stages that the layers can be split into, those that divide the ranks too where there are any: '1, 2 or 4'."""
    found: list[int] = []
    for stages in range(1, run.sizes["num_layers"] + 1):
        with contextlib.suppress(ValueError):
            if min(layers_a_stage(run.sizes, recipe.layout, replace(layout, pipeline=stages))) > 0:
                found.append(stages)
    others = layout.ranks // (layout.tensor * layout.context)
    fitting = [stages for stages in found if others % stages == 0]
    return one_of(fitting if len(fitting) > 1 else found)


def _virtual_split(run: Run, layout: Layout, recipe: Recipe, stages: list[int], named: str) -> Iterator[str]:
    """Megatron's interleaved schedule: the layers of a stage divide by the virtual stages, the micro batches by
    the stages.
    """
    if recipe.family != "gpt":
        yield f"{named}: the models of {recipe.name} can't be split into virtual stages; leave it out"
        return
    each = (sum(stages) + recipe.layout["embedding_counts"] + recipe.layout["loss_counts"]) // layout.pipeline
    if any(ends_of(recipe.layout, layout)):
        if not enough_for_chunks(stages, layout.virtual_pipeline):
            split = ", ".join(map(str, stages))
            yield f"{named}: stages of {split} layers have none for each of their {layout.virtual_pipeline} chunks; lower it"
    elif each % layout.virtual_pipeline:
        yield f"{named}: doesn't divide the {counted(each, 'layer')} of a stage; use {_divisors(each, each)}"
    micro = layout.micro_batches(run.settings.global_batch_size, run.settings.micro_batch_size)
    if micro % layout.pipeline:
        each = run.settings.micro_batch_size * layout.data * layout.pipeline
        yield (
            f"{named}: the {counted(micro, 'micro batch')} of a step {'is' if micro == 1 else 'are'} not a multiple of"
            f" --pipeline-model-parallel-size {layout.pipeline}; use --global-batch-size"
            f" {one_of(_near_multiples(run.settings.global_batch_size, each, None))}"
        )


def stage_ends(run: Run) -> Iterator[str]:
    """TransformerConfig.__post_init__ (megatron-core 0.15.3): what the first and the last stage leave divides over the
    other stages.
    """
    layout, recipe = run.layout, run.recipe
    if layout is None or recipe is None or not _named_ends(layout):
        return
    named = ", ".join(_named_ends(layout))
    if layout.pipeline == 1:
        yield f"{named}: needs --pipeline-model-parallel-size 2 or more; leave it out"
    elif recipe.family != "gpt":
        yield f"{named}: the models of {recipe.name} have as many layers in each stage; leave it out"
    else:
        try:
            layers_a_stage(run.sizes, recipe.layout, layout)
        except ValueError:
            yield f"{named}: {_what_ends_leave(run, layout, recipe)}"


def _named_ends(layout: Layout) -> list[str]:
    """The flags that give an end of the pipeline a number of layers, as typed."""
    ends = {"--first-stage-layers": layout.first_stage_layers, "--last-stage-layers": layout.last_stage_layers}
    return [f"{flag} {layers}" for flag, layers in ends.items() if layers]


def _what_ends_leave(run: Run, layout: Layout, recipe: Recipe) -> str:
    """Why no split has these ends, and what has."""
    layers, (first, last) = run.sizes["num_layers"], ends_of(recipe.layout, layout)
    left, others = left_for_others(layers, layout.pipeline, first, last)
    model = f"the {layers} layers of {recipe.name}"
    if not others:
        return f"the two stages don't add up to {model}; leave one of the flags out"
    other_stages = "1 other stage" if others == 1 else f"{others} other stages"
    name = "last" if layout.last_stage_layers else "first"
    fits = []
    for size in range(1, layers):
        trial = replace(layout, last_stage_layers=size) if name == "last" else replace(layout, first_stage_layers=size)
        with contextlib.suppress(ValueError):
            layers_a_stage(run.sizes, recipe.layout, trial)
            fits.append(size)
    asked = layout.last_stage_layers or layout.first_stage_layers or 0
    near = sorted(sorted(fits, key=lambda size: abs(size - asked))[:2])
    mend = f"--{name}-stage-layers {' or '.join(map(str, near))} would do" if near else "lower them"
    return f"of {model} {left if left > 0 else 'none'} {'is' if left == 1 else 'are'} left for the {other_stages}, which must have as many each; {mend}"


# A rotary base of our own would have to be proved through the export: an import with another config.json is.
LONGER = (
    "let its positions reach further first: in the config.json of its Hugging Face folder raise max_position_embeddings and rope_theta"
    " (or add rope_scaling), import that, and name both folders in --nemo-model and --hf-model-id"
)


def sequence_length(run: Run) -> Iterator[str]:
    """Megatron gives each context parallel rank an early and a late piece of the sequence; a model has so many
    positions.
    """
    if run.recipe is None or run.layout is None or not run.seq_length:
        return
    layout, length = run.layout, run.seq_length
    if layout.context > 1 and length % (2 * layout.context):
        yield (
            f"--seq-length {length}: not a multiple of 2 x --context-parallel-size = {2 * layout.context}, since each"
            f" rank takes an early and a late piece; use {one_of(_near_multiples(length, 2 * layout.context, None))}"
        )
    elif layout.sequence_parallel and length // layout.context % layout.tensor:
        yield (
            f"--seq-length {length}: the {length // layout.context:,} tokens of a context parallel rank are not a multiple of"
            f" --tensor-model-parallel-size {layout.tensor}, as --sequence-parallel needs; use --seq-length"
            f" {one_of(_near_multiples(length, math.lcm(2 if layout.context > 1 else 1, layout.tensor) * layout.context, None))}"
        )
    exact = _exact_up_to(run)
    if exact and length > exact:
        yield (
            f"--seq-length {length}: this checkpoint's Gemma 2 came from Hugging Face; NeMo's model equals it only up"
            f" to {exact} tokens (its sliding window is on other layers); use {exact} at most"
        )
        return
    longest = _longest_sequence(run, run.recipe)
    if longest and length > longest:
        made = f"--seq-length {length}: {run.recipe.name} is made for at most {longest} tokens; lower it, or"
        if run.nemo_model and run.sizes.get("position_embedding_type") == "rope":
            yield f"{made} {LONGER}"
        else:
            yield f"{made} take a recipe for longer sequences (--list-models)"


def _exact_up_to(run: Run) -> int | None:
    """Tokens up to which a converted Gemma 2 is the Hugging Face model: its window. One that NeMo trained on more is its own."""
    if run.nemo_model is None or run.nemo_model.model_class != "Gemma2Model":
        return None
    window, length = (run.nemo_model.sizes.get(name) for name in ("window_size", "seq_length"))
    if not window or not isinstance(length, int) or length > window[0] + 1:
        return None
    return int(window[0]) + 1


def _longest_sequence(run: Run, recipe: Recipe) -> int | None:
    """Tokens that the positions of the model allow; None where any number may be trained from scratch."""
    if recipe.family == "gpt" and run.sizes.get("position_embedding_type") == "learned_absolute":
        return run.sizes["seq_length"] if run.nemo_model else None  # a table of positions, made as long as asked
    if recipe.longest_sequence is None:
        return None
    return max(recipe.longest_sequence, int(run.hf_config.get("max_position_embeddings") or 0))
