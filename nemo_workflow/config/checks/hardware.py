"""This machine's GPUs, what a CPU can't do, precision."""

from __future__ import annotations

import os
from collections.abc import Iterator

from nemo_workflow.backends.patching import installed_problems
from nemo_workflow.backends.registry_cpu import CPU_PATCHES
from nemo_workflow.config import calibration, containers
from nemo_workflow.config.checks.context import Run
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.models.flops import flops_a_token
from nemo_workflow.models.parameters import count, padded_vocabulary
from nemo_workflow.utils import machine
from nemo_workflow.utils.console import counted, human_count, human_time

LARGE_ON_A_CPU = 500_000_000  # parameters
LONG_STEP_SECONDS = 1800.0
GPU_ONLY = "train on a GPU, or leave it out"


def machine_size(run: Run) -> Iterator[str]:
    """torchrun would start as many ranks as asked for; those without a GPU fail in torch.cuda.set_device."""
    settings = run.settings
    if settings.executor == "slurm":
        return
    if settings.num_nodes > 1:
        yield f"--num-nodes {settings.num_nodes}: --executor local runs on this machine only; use --executor slurm"
    if run.accelerator != "gpu" or settings.dry_run:
        return  # a plan may be for another machine
    found = machine.gpu_count() if machine.has_gpu() else 0
    if found is not None and run.layout and run.layout.ranks_per_node > found:
        fits = ranks_that_fit(run, found) if found else None
        remedy = f"--num-gpus {fits or found}" if found else "--accelerator cpu"
        yield f"--num-gpus {run.layout.ranks_per_node}: this machine has {counted(found, 'GPU')} available; use {remedy}"


def cpu_limits(run: Run) -> Iterator[str]:
    """What gloo and a machine without Transformer Engine can't do, or, as fp8, would leave out silently."""
    if run.accelerator != "cpu":
        return
    settings = run.settings
    if settings.fp8:
        yield f"--fp8: not possible on a CPU; {GPU_ONLY}"
    if settings.cpu_offloading:
        yield f"--cpu-offloading: not possible on a CPU; {GPU_ONLY}"
    if settings.optim_cpu_offloading:
        yield f"--optim-cpu-offloading: not possible on a CPU; {GPU_ONLY}"
    if settings.optimizer_precision == "bf16":
        yield f"--optimizer-precision bf16: needs Transformer Engine; {GPU_ONLY}"
    if settings.context_parallel_size > 1:
        yield f"--context-parallel-size {settings.context_parallel_size}: needs Transformer Engine; {GPU_ONLY}"
    if run.recipe is None:
        return
    if run.sizes.get("multi_latent_attention"):
        yield f"--model-name {run.recipe.name}: multi-latent attention needs Transformer Engine; train on a GPU"
    elif run.recipe.parameters is None:
        libraries = "mamba-ssm and Transformer Engine" if run.recipe.family == "ssm" else "Transformer Engine"
        yield f"--model-name {run.recipe.name}: its layers need {libraries}; train on a GPU"
    elif run.recipe.precision["fp8"] and settings.precision is None:
        yield f"--model-name {run.recipe.name}: the recipe trains in fp8, which a CPU can't; add --precision bf16-mixed"


def cpu_speed(run: Run) -> Iterator[str]:
    """A model that nobody trains on a CPU by choice is trained there only by --accelerator cpu."""
    if run.settings.dry_run or run.accelerator != "cpu" or run.settings.accelerator != "auto":
        return
    seconds = cpu_step_seconds(run)
    if run.recipe is None or seconds is None or not slow_on_a_cpu(run):
        return
    parameters = human_count(_parameters(run, run.recipe))
    yield (
        f"--model-name {run.recipe.name}: no GPU was found, and on this machine's CPU a step would take about"
        f" {human_time(seconds)} ({parameters} parameters, {human_count(_tokens_a_step(run))} tokens);"
        " add --accelerator cpu to train on it anyway, or take a smaller model (llama_tiny) or --global-batch-size"
    )


def slow_on_a_cpu(run: Run) -> bool:
    """Whether nobody would train this model, with this batch, on this machine's CPU by choice."""
    seconds = cpu_step_seconds(run)
    if run.recipe is None or seconds is None:
        return False
    return _parameters(run, run.recipe) >= LARGE_ON_A_CPU or seconds >= LONG_STEP_SECONDS


def cpu_step_seconds(run: Run) -> float | None:
    """About how long a step takes on all cores that this process may use, by --calibrate's speed; None where the model isn't known."""
    if run.recipe is None or run.recipe.parameters is None or not run.seq_length:
        return None
    vocabulary = padded_vocabulary(run.sizes, run.vocab_size)
    work = flops_a_token(run.recipe.family, run.sizes, vocabulary, run.seq_length) or 6.0 * _parameters(run, run.recipe)
    precision = run.settings.precision or run.recipe.precision["precision"]
    scale, _ = calibration.scale_of(run.settings.output_dir, None, fp8=False)
    return scale * _tokens_a_step(run) * work / machine.cpu_rate(precision)


def _tokens_a_step(run: Run) -> int:
    return int(run.settings.global_batch_size) * run.seq_length


def _parameters(run: Run, recipe: Recipe) -> int:
    vocabulary = padded_vocabulary(run.sizes, run.vocab_size)
    return count(recipe.family, recipe.model_class, run.sizes, vocabulary).total


def cores_short_of(run: Run) -> int | None:
    """This machine's cores, where a run on its CPU has more processes than that; else None."""
    if run.accelerator != "cpu" or run.settings.executor != "local" or run.layout is None:
        return None
    cores = len(os.sched_getaffinity(0))
    return cores if run.layout.ranks_per_node > cores else None


def ranks_that_fit(run: Run, most: int) -> int | None:
    """The largest number of ranks per node up to `most` with which nothing else of the layout and the batch has to change."""
    layout, settings = run.layout, run.settings
    if layout is None or layout.nodes > 1:
        return None
    others = layout.tensor * layout.pipeline * layout.context
    fits = (
        ranks
        for ranks in range(most, 0, -1)
        if ranks % others == 0 and settings.global_batch_size % (settings.micro_batch_size * (ranks // others)) == 0
    )
    return next(fits, None)


def fp8_output_layer(run: Run) -> Iterator[str]:
    """Ours, not a library's: proven over 500 steps where the output matrix is the embedding's, over 14 where it isn't."""
    settings = run.settings
    if not settings.fp8_output_layer:
        return
    if not settings.fp8:
        yield "--fp8-output-layer: does nothing without --fp8; add --fp8 or leave it out"
    if settings.tensor_model_parallel_size > 1:
        yield "--fp8-output-layer: computes a whole output layer on each GPU; leave it or --tensor-model-parallel-size out"
    if run.recipe and run.sizes.get("share_embeddings_and_output_weights") is False:
        yield (
            f"--fp8-output-layer: proven only for tied embeddings, as in llama32_1b; {run.recipe.name} has"
            " an output matrix of its own; leave it out"
        )


def cpu_libraries(run: Run) -> Iterator[str]:
    """The versions that the CPU backend's patches were written for; a container's can't be told from here."""
    settings = run.settings
    if run.accelerator != "cpu" or containers.described(settings):
        return
    problems = installed_problems(CPU_PATCHES)
    if problems:
        yield (
            f"--accelerator cpu: {'; '.join(problems)}; install the versions in requirements.txt into an environment of their"
            " own, or train on a GPU"
        )


def cpu_libraries_of_a_run(run: Run) -> Iterator[str]:
    """A plan may be for another machine: there it is a note."""
    if not run.settings.dry_run:
        yield from cpu_libraries(run)


def precision_flags(run: Run) -> Iterator[str]:
    """Transformer Engine's assert_dim_for_fp8_exec: the tokens of a rank divide by 16; a recipe for fp8 without
    fp8 would be dropped in silence.
    """
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
            yield f"--fp8: {tokens:g} tokens per rank is not a multiple of 16; change --seq-length or --micro-batch-size"
