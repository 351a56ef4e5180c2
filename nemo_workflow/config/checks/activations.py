"""What saves the memory of activations: recomputing and offloading them."""

from __future__ import annotations

from collections.abc import Iterator

from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.parallelism import chunks_of, layers_a_stage
from nemo_workflow.utils.console import counted


def recompute(run: Run) -> Iterator[str]:
    """TransformerConfig.__post_init__ (megatron-core 0.15.3) asserts a method and a number with full, and ignores
    both without it.
    """
    settings = run.settings
    granularity = settings.recompute_granularity
    extra = run.given("recompute_method", "recompute_num_layers")
    if extra and granularity != "full":
        own = run.sizes.get("recompute_granularity") if granularity is None else None
        if own != "full":
            yield f"{', '.join(extra)}: only goes with --recompute-granularity full; add it or leave them out"
            return
    if granularity == "full":
        needed = {
            "--recompute-method": settings.recompute_method,
            "--recompute-num-layers": settings.recompute_num_layers,
        }
        missing = [flag for flag, value in needed.items() if value is None]
        if missing:
            yield f"--recompute-granularity full: needs {' and '.join(missing)} too, e.g. {_recompute_example(missing)}"
    if settings.recompute_num_layers and run.layout and run.recipe:
        try:
            stages = layers_a_stage(run.sizes, run.recipe.layout, run.layout)
            stage = chunks_of(max(stages), run.layout.virtual_pipeline)[0]
        except ValueError:
            return  # said by the pipeline's own rule
        if settings.recompute_num_layers > stage:
            yield (
                f"--recompute-num-layers {settings.recompute_num_layers}: a (virtual) pipeline stage has {counted(stage, 'layer')};"
                f" use 1{f' to {stage}' if stage > 1 else ''}"
            )


def _recompute_example(missing: list[str]) -> str:
    examples = {"--recompute-method": "uniform", "--recompute-num-layers": "1"}
    return " ".join(f"{name} {examples[name]}" for name in missing)


def cpu_offloading(run: Run) -> Iterator[str]:
    """TransformerConfig.__post_init__ (megatron-core 0.15.3) refuses offloading with pipeline stages or
    recomputed activations, and more layers than the model has.
    """
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
            "--cpu-offloading-weights: Transformer Engine 2.9 no longer offloads weights, and a run that offloads only weights"
            " fails at its first step; use --cpu-offloading-activations"
        )
    layers = settings.cpu_offloading_layers
    if layers is None:
        yield "--cpu-offloading: needs --cpu-offloading-layers, the number of layers to offload"
    elif run.sizes and layers >= run.sizes["num_layers"]:
        yield f"--cpu-offloading-layers {layers}: must be below the model's {counted(run.sizes['num_layers'], 'layer')}"
    if settings.recompute_granularity:
        yield "--cpu-offloading: can't be combined with --recompute-granularity; leave one of them out"
    elif run.recompute_granularity and run.recipe:
        yield f"--cpu-offloading: recipe {run.recipe.name} recomputes activations, which can't be combined; leave it out"
    if settings.pipeline_model_parallel_size > 1:
        yield (
            f"--cpu-offloading: can't be combined with --pipeline-model-parallel-size"
            f" {settings.pipeline_model_parallel_size}; use 1 stage"
        )
    if settings.fp8:
        yield "--cpu-offloading: can't be combined with --fp8; leave one of them out"
