"""How ranks share the model: data, tensor, pipeline, context and expert parallelism, and the sequence length that they split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.checks.hardware import cores_short_of
from nemo_workflow.config.parallelism import Layout, ends_of, enough_for_chunks, layers_a_stage, left_for_others
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.utils.console import counted


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
            f"--num-gpus {layout.ranks_per_node} x --num-nodes {layout.nodes}: {layout.ranks} ranks are not a multiple of"
            f" TP x PP x CP = {layout.tensor} x {layout.pipeline} x {layout.context} = {size};"
            " change the ranks or the parallel sizes"
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
    """All of it at once: who follows the first message mustn't meet a second."""
    batch = f"use {_near_multiples(run.settings.global_batch_size, each)}"
    return f"{batch}{_smaller_micro_batch(run, layout)}{_as_many_as_cores(run, layout)}"


def _smaller_micro_batch(run: Run, layout: Layout) -> str:
    """The micro batch with which the batch may stay as it is, where there is one."""
    per_rank, rest = divmod(run.settings.global_batch_size, layout.data)
    if rest or not per_rank:
        return ""
    size = next(size for size in range(min(per_rank, run.settings.micro_batch_size), 0, -1) if per_rank % size == 0)
    return f", or keep it and use --micro-batch-size {size}"


def _as_many_as_cores(run: Run, layout: Layout) -> str:
    """More processes than a CPU has cores are seldom meant: the number with which nothing else need change."""
    cores = cores_short_of(run)
    if cores is None:
        return ""
    others = layout.ranks_per_node // layout.data if layout.nodes == 1 else layout.ranks_per_node
    fits = (
        ranks
        for ranks in range(cores, 0, -1)
        if ranks % others == 0
        and run.settings.global_batch_size % (run.settings.micro_batch_size * (ranks // others)) == 0
    )
    best = next(fits, None)
    said = f"; this machine has {counted(cores, 'core')}, on which {layout.ranks_per_node} processes take turns"
    return said + (f": --num-gpus {best} is faster, and nothing else has to change" if best else "")


def _near_multiples(value: int, step: int) -> str:
    below = value // step * step
    return f"{below} or {below + step}" if below else f"{step}"


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
    if experts and experts % layout.expert:
        yield f"{named}: doesn't divide the {experts} experts; use a divisor of {experts}"
    size = layout.pipeline * layout.expert * (layout.expert_tensor or layout.tensor)
    if layout.expert > 1 and layout.ranks % size:
        yield (
            f"{named}: {layout.ranks} ranks are not a multiple of PP x EP x the ranks an expert is split over = {size};"
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
    """The numbers of stages that the layers can be split into: '1, 2 or 4'."""
    found = []
    for stages in range(1, run.sizes["num_layers"] + 1):
        with contextlib.suppress(ValueError):
            if min(layers_a_stage(run.sizes, recipe.layout, replace(layout, pipeline=stages))) > 0:
                found.append(str(stages))
    return " or ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


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
        yield f"{named}: doesn't divide the {counted(each, 'layer')} of a stage; use a divisor of it"
    micro = layout.micro_batches(run.settings.global_batch_size, run.settings.micro_batch_size)
    if micro % layout.pipeline:
        yield (
            f"{named}: the {counted(micro, 'micro batch')} of a step {'is' if micro == 1 else 'are'} not a multiple of"
            f" --pipeline-model-parallel-size {layout.pipeline}; change --global-batch-size"
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
            " rank takes an early and a late piece; use one"
        )
    elif layout.sequence_parallel and length // layout.context % layout.tensor:
        yield (
            f"--seq-length {length}: the {length // layout.context} tokens of a context parallel rank are not a multiple of"
            f" --tensor-model-parallel-size {layout.tensor}, as --sequence-parallel needs; use one"
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
