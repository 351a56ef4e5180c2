"""Every patch of a library: what it changes, why, for which versions, and what the library must look like for it.

A changed library is refused, or left as it is where the patch is optional; none is patched by halves. A patch is put in place
by patching.py, from its row here, and by nothing else. `python -m nemo_workflow.patches` lists them. Imports no library.
"""

from __future__ import annotations

from typing import Any

from nemo_workflow.backends.patching import (
    CONVERSION,
    CPU,
    GPU,
    LAUNCHER,
    MORE,
    OWN,
    RANK,
    VALUE,
    Patch,
    version_problems,
)
from nemo_workflow.backends.registry_cpu import CPU_PATCHES
from nemo_workflow.utils.libraries import version

# What NVIDIA's containers 25.09 to 26.02 hold (docs/versions.md), and what requirements/common.txt pins.
NEMO, MEGATRON, LIGHTNING, NEMO_RUN = ">=2.5,<2.8", ">=0.14,<0.17", ">=2.2.2,<2.5", ">=0.6,<0.12"

_MEGATRON_STRATEGY = "nemo.lightning.pytorch.strategies.megatron_strategy"
_HYBRID = "megatron.core.optimizer.cpu_offloading.hybrid_optimizer:HybridDeviceOptimizer"

GPU_PATCHES = (
    Patch(
        "backends.gpu.weight_gradient:install",
        "transformer-engine",
        ">=2.7,<3",
        ("fused_weight_gradient_mlp_cuda:wgrad_gemm_accum_fp32",),
        signature=OWN,
        where=GPU,
        optional=True,
        reason="megatron-core's output layer asks for Apex's extension, and NeMo turns the fusion off for all layers where it is missing; Transformer Engine's product does the same.",
    ),
    Patch(
        "backends.gpu.output_layer:postprocess",
        "megatron-core",
        MEGATRON,
        ("megatron.core.models.gpt.gpt_model:GPTModel._postprocess",),
        signature="self, hidden_states, input_ids, position_ids, labels, ...",
        where=GPU,
        optional=True,
        reason="Transformer Engine's cross entropy passes over the logits six times and waits for the GPU in each micro batch; one kernel does it in two, with --fp8-output-layer in fp8.",
    ),
    Patch(
        "backends.gpu.activation:backward",
        "megatron-core",
        MEGATRON,
        ("megatron.core.fusions.fused_bias_swiglu:SwiGLUFunction.backward",),
        signature="ctx, grad_output",
        where=GPU,
        optional=True,
        reason="SwiGLU's compiled gradient ends in a concatenation, at 2.3 of the 3.0 TB/s that an H100 copies with.",
    ),
    Patch(
        "backends.gpu.rotary:apply_rotary",
        "megatron-core",
        MEGATRON,
        ("megatron.core.transformer.attention:apply_fused_qkv_rotary_pos_emb",),
        signature=MORE,
        where=GPU,
        optional=True,
        reason="Transformer Engine's rotary kernels take 2.5 times as long as reading and writing the tensors takes.",
    ),
    Patch(
        "backends.gpu.attention:forward",
        "megatron-core",
        MEGATRON,
        ("megatron.core.extensions.transformer_engine:TEDotProductAttention.forward",),
        signature="self, query, key, value, attention_mask, attn_mask_type, attention_bias, packed_seq_params, ...",
        where=GPU,
        optional=True,
        reason="flash-attn-4, where it is installed, is faster than cuDNN on a Hopper GPU.",
    ),
    Patch(
        "backends.gpu.optimizer_update:in_pieces",
        "transformer-engine",
        ">=2.7,<3",
        ("transformer_engine.pytorch.optimizers.fused_adam:FusedAdam.step",),
        signature="self, closure, grad_scaler",
        where=GPU,
        optional=True,
        needs=lambda settings: settings.optimizer_precision == "bf16",
        reason="With moments in bf16 FusedAdam makes fp32 copies of all of them at each step: 8 bytes per parameter, more than bf16 saves.",
    ),
    Patch(
        "backends.shard_queue:with_the_rank",
        "megatron-core",
        MEGATRON,
        ("megatron.core.dist_checkpointing.strategies.filesystem_async:_get_write_results_queue",),
        signature="",
        where=GPU,
        optional=True,
        reason="The process that holds the queue of a checkpoint's writers is spawned, since CUDA must not be in a fork, and after `kill -9` of the rank it would stay for ever.",
    ),
    Patch(
        "backends.gpu.offloaded_optimizer:unless_offloaded",
        "nemo_toolkit",
        NEMO,
        (f"{_MEGATRON_STRATEGY}:_optimizer_to_device",),
        signature="optimizer, device",
        where=GPU,
        needs=lambda settings: settings.optim_cpu_offloading,
        reason="NeMo moves what it has loaded to the GPU, and the optimizer on the host could not make its next step.",
    ),
    Patch(
        "backends.gpu.offloaded_optimizer:without_classes",
        "megatron-core",
        MEGATRON,
        (f"{_HYBRID}.state_dict",),
        signature="self",
        where=GPU,
        needs=lambda settings: settings.optim_cpu_offloading,
        reason="The groups hold two optimizer classes, and a checkpoint is read with `weights_only=True`, which refuses classes: the run could not be resumed, nor its weights converted.",
    ),
    Patch(
        "backends.gpu.offloaded_optimizer:weights_from_state",
        "megatron-core",
        MEGATRON,
        (f"{_HYBRID}._update_fp32_params_by_new_state",),
        signature="self",
        where=GPU,
        needs=lambda settings: settings.optim_cpu_offloading,
        reason="After a load the original knows only parameters that have an fp32 copy, and a model in fp32 has none.",
    ),
)

RANK_PATCHES = (
    Patch(
        "backends.one_logger:leave_out",
        "nv-one-logger-core",
        ">=2",
        ("nv_one_logger.api.config:LoggerConfig",),
        signature=OWN,
        where=RANK,
        optional=True,
        reason="NVIDIA's telemetry opens two files in the current folder, whatever that is, and logs an error of its own there in every run.",
    ),
    Patch(
        "backends.deferred:torchmetrics",
        "torchmetrics",
        ">=1.9,<1.10",
        ("torchmetrics:functional",),
        signature=OWN,
        where=RANK,
        optional=True,
        reason="Lightning imports it for two classes, and its body takes SciPy's signals and all metrics with it, a second and more of each rank's start: it runs when something of it is first asked for.",
    ),
    Patch(
        "backends.deferred:wandb",
        "wandb",
        ">=0.17,<1",
        ("wandb:init",),
        signature=OWN,
        where=RANK,
        optional=True,
        reason="Megatron imports it to see whether it is there: it runs when something of it is first asked for, as --wandb does.",
    ),
    Patch(
        "backends.memory_pool:no_build",
        "torch",
        ">=2.8",
        ("torch.utils.cpp_extension:load_inline",),
        signature="name, cpp_sources, ...",
        where=RANK,
        optional=True,
        reason="megatron-core compiles a memory pool for inference whenever it is imported; where that fails each start takes half a minute longer, and one that is killed meanwhile leaves a lock at which every later one waits.",
    ),
    Patch(
        "backends.optimizer_arguments:without_defaults",
        "megatron-core",
        MEGATRON,
        ("megatron.core.optimizer:get_megatron_optimizer",),
        signature="config, model_chunks, ...",
        where=RANK,
        reason="megatron-core 0.16 took three arguments out that NeMo still passes.",
    ),
    Patch(
        "backends.optimizer_gather:without_storage",
        "megatron-core",
        MEGATRON,
        ("megatron.core.optimizer.distrib_optimizer:DistributedOptimizer.get_parameter_state_dp_zero",),
        signature="self, use_gloo_comm, empty_data, return_on_all_ranks",
        where=RANK,
        optional=True,
        reason="A save takes all of the optimizer's state to the host five times on every rank while the training waits, and misplaces what lies behind a bucket's padding (3 or 6 data-parallel ranks).",
    ),
    Patch(
        "backends.optimizer_gather:filled_first",
        "megatron-core",
        MEGATRON,
        ("megatron.core.dist_checkpointing.strategies.torch:TorchDistSaveShardedStrategy.async_save",),
        signature="self, sharded_state_dict, checkpoint_dir",
        where=RANK,
        optional=True,
        reason="Where each rank's part of a save is settled, the optimizer's state is gathered, and each rank takes its part of it to the host once.",
    ),
    Patch(
        "training.shard_writer:hashed_without_checksums",
        "megatron-core",
        MEGATRON,
        ("megatron.core.dist_checkpointing.strategies.filesystem_async:FileSystemWriterAsync.write_preloaded_data",),
        signature="transform_list, local_proc_idx, write_bucket, results_queue, count_queue, use_fsync, **kwargs",
        where=RANK,
        optional=True,
        reason="torch.save spends two thirds of the writers' time on CRC32 sums, which torch.load doesn't look at; our manifest has a hash of every file, which the writers compute.",
    ),
    Patch(
        "training.callbacks:with_seed",
        "nemo_toolkit",
        NEMO,
        ("nemo.lightning._strategy_lib:init_parallel_ranks",),
        signature="world_size, global_rank, local_rank, parallel_config, seed, ...",
        where=RANK,
        reason="NeMo's strategy always passes its own default seed, 1234.",
    ),
    Patch(
        "training.sample_order:ordered_blend",
        "megatron-core",
        MEGATRON,
        ("megatron.core.datasets.blended_megatron_dataset_builder:BlendedDataset",),
        signature="datasets, weights, size, config",
        where=RANK,
        reason="A blend's order must not change with the number of steps: a run would not go on where it was.",
    ),
    Patch(
        "training.nonfinite:noted",
        "megatron-core",
        MEGATRON,
        ("megatron.core.distributed.param_and_grad_buffer:_ParamAndGradBucketGroup.check_grads",),
        signature="self, check_for_nan_or_inf, check_for_large",
        where=RANK,
        needs=lambda settings: settings.precision != "16-mixed",
        reason="Megatron's own check of gradients raises in the backward pass of one rank, where the others can't be told.",
    ),
    Patch(
        "training.nonfinite:with_word_of_ranks",
        "megatron-core",
        MEGATRON,
        ("megatron.core.optimizer.optimizer:MegatronOptimizer.prepare_grads",),
        signature="self",
        where=RANK,
        needs=lambda settings: settings.precision != "16-mixed",
        reason="Before an update all ranks must know of a gradient that is no number, to stop or leave the step out together.",
    ),
    Patch(
        "training.callbacks:never_skipped",
        "lightning",
        LIGHTNING,
        ("lightning.pytorch.loops.fit_loop:_FitLoop.skip",),
        signature=VALUE,
        where=RANK,
        reason="Lightning calls no hooks of a training that has no step left, and a validation that is still due would not be made.",
    ),
    Patch(
        "training.teardown:lean",
        "lightning",
        LIGHTNING,
        ("lightning.pytorch.strategies.strategy:Strategy.teardown",),
        signature="self",
        where=RANK,
        optional=True,
        reason="At the end Lightning moves the optimizer's states and the model to the host: 35 s for a model of 8 billion parameters, for what nobody reads.",
    ),
    Patch(
        "training.validation_sets:unlogged",
        "nemo_toolkit",
        NEMO,
        ("nemo.lightning.pytorch.plugins.data_sampler:MegatronDataSampler.output_log",),
        signature=OWN,
        where=RANK,
        needs=lambda settings: bool(settings.validation_dir),
        reason="NeMo's sampler logs the global batch at each step, which fails outside of Lightning's own loop: `output_log` is off while a --validation-dir is gone through.",
    ),
    Patch(
        "training.recipe_check:without_fusions",
        "megatron-core",
        MEGATRON,
        ("megatron.core.transformer.transformer_config:TransformerConfig.__post_init__",),
        signature="self",
        where=RANK,
        needs=lambda settings: False,
        reason="On a machine without Transformer Engine no config with its fusions can be built (only where recipes are compared, in `make matrix`).",
    ),
    Patch(
        "backends.cpu.products:compute_in_fp32",
        "torch",
        ">=2.8",
        ("torch.ops.aten:mm",),
        signature=OWN,
        where=CPU,
        optional=True,
        reason="Where a CPU has no instructions for bf16, torch's products of it are plain loops, ten times slower than through fp32.",
    ),
)

OTHER_PATCHES = (
    Patch(
        "launch.nemo_run_import:import_nemo_run",
        "nemo_run",
        NEMO_RUN,
        ("nemo_run:run",),
        signature=OWN,
        where=LAUNCHER,
        optional=True,
        needs=lambda settings: settings.executor == "slurm",
        reason="Half of nemo_run's import is for writing torch.dtype into YAML, which we never do: torch is hidden from it.",
    ),
    Patch(
        "launch.torchrun:forking",
        "torch",
        ">=2.8",
        ("torch.distributed.elastic.multiprocessing.api:get_subprocess_handler",),
        signature="entrypoint, args, env, stdout, stderr, local_rank_id, ...",
        where=LAUNCHER,
        optional=True,
        needs=lambda settings: settings.executor == "local",
        reason="torchrun starts a Python for each rank, and each imports NeMo; forked ranks have it.",
    ),
    Patch(
        "launch.slurm.submit:only_the_number",
        "nemo_run",
        NEMO_RUN,
        ("nemo_run.core.tunnel.client:Tunnel.run",),
        signature="self, command, hide, warn, **kwargs",
        where=LAUNCHER,
        needs=lambda settings: settings.executor == "slurm",
        reason="nemo_run takes all that sbatch prints for the job's number; sites wrap sbatch, and a login shell may greet.",
    ),
    Patch(
        "conversion.nemo_context:prepare",
        "nemo_toolkit",
        NEMO,
        ("transformer_engine:pytorch", "apex:contrib"),
        signature=OWN,
        where=CONVERSION,
        reason="Transformer Engine computes on a GPU only, in TF32, too coarse to tell a wrong model from rounding: it is hidden from NeMo.",
    ),
    Patch(
        "conversion.compare_logits:on_meta",
        "torch",
        ">=2.8",
        ("torch.nn:Module.register_parameter",),
        signature="self, name, param",
        where=CONVERSION,
        reason="A model's parameters are made without storage, or the whole model would be in memory twice.",
    ),
)

PATCHES = (*CPU_PATCHES, *GPU_PATCHES, *RANK_PATCHES, *OTHER_PATCHES)
_BY_MAKE = {patch.make: patch for patch in PATCHES}


def find(make: str) -> Patch:
    """The row of one of our functions, "module:function". Raises KeyError for a patch that is not in the registry."""
    return _BY_MAKE[make]


def that_apply(settings: Any, accelerator: str) -> list[Patch]:
    """The patches that a run with these settings takes, on this accelerator, in the registry's order."""
    return [patch for patch in PATCHES if patch.where in (accelerator, RANK, LAUNCHER) and patch.needs(settings)]


def described(patch: Patch) -> dict[str, Any]:
    """A row for people and programs, with the installed version and whether it is one of the row's. Imports no library."""
    return {
        "name": patch.name,
        "library": patch.library,
        "versions": patch.versions,
        "installed": version(patch.library),
        "targets": [target.replace(":", ".") for target in patch.targets],
        "where": patch.where,
        "reason": patch.reason,
        "version_fits": not version_problems(patch),
        "if_changed": "left out" if patch.optional else "refused",
        "code": f"nemo_workflow/{patch.make.partition(':')[0].replace('.', '/')}.py",
    }
