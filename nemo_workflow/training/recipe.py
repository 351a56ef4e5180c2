"""Plan -> NeMo recipe: the only module that knows how NeMo recipes look inside. Imported in the workers only.

A recipe is a `run.Partial` of `llm.pretrain` whose arguments are configurations: nothing of the model is built here.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import nemo_run as run
import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.model_parallel_config import ModelParallelConfig
from nemo import lightning as nl
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.collections.llm.gpt.data.pre_training import PreTrainingDataModule
from nemo.collections.llm.recipes.precision import mixed_precision
from nemo.lightning.pytorch.plugins.mixed_precision import MegatronMixedPrecision

from nemo_workflow.config.plan import Plan
from nemo_workflow.config.recipe_fields import field_values
from nemo_workflow.models.architecture import ARCHITECTURE, as_nemo
from nemo_workflow.models.pretrained import NemoModel, no_such_class, read_nemo_model
from nemo_workflow.run_dir.checkpoints import FILENAME
from nemo_workflow.run_dir.staged_tokenizer import source_of
from nemo_workflow.training import gpu_settings, loggers, sample_order, shard_writer
from nemo_workflow.utils.errors import Refusal

BUILT_IN = "nemo_workflow.models.recipes"
INDEX_CACHE = ".index_cache"  # below --output-dir: its entries depend on the data only, so experiments share them
NEMO = "nemo.collections.llm.recipes"


def build(plan: Plan, resume_from: str | None = None) -> run.Partial:
    """The recipe of `plan.model_name` with every value of the plan at its field.

    `resume_from` is a checkpoint folder of this run to continue from. Raises AttributeError with the recipe's name
    when the recipe lacks a field that the plan sets.
    """
    recipe = stock(plan)
    if plan.settings.nemo_model:
        _take_model_of_checkpoint(recipe, read_nemo_model(plan.settings.nemo_model))
    recipe.data = _data(recipe, plan)
    _set_ddp(recipe, plan)
    for path, value in field_values(plan).items():
        set_field(recipe, path, value, plan.model_name)
    _set_precision(recipe, plan)
    _set_gradients(recipe, plan)
    _set_optimizer_states(recipe, plan)
    if plan.layout.pipeline > 1:
        recipe.trainer.strategy.pipeline_dtype = torch.float32 if plan.settings.precision == "32" else torch.bfloat16
    _set_trainer(recipe, plan)
    recipe.log = _log(plan, resume_from)
    recipe.resume = _resume(plan, resume_from)
    if plan.accelerator == "cpu":
        _fit_cpu(recipe, plan)
    else:
        gpu_settings.apply(recipe, plan)
    return recipe


def stock(plan: Plan) -> run.Partial:
    """The recipe as NeMo (or our recipes module) ships it."""
    return stock_recipe(plan.model_name, plan.layout.nodes, plan.layout.ranks_per_node, plan.run_dir)


def stock_recipe(name: str, nodes: int = 1, gpus_per_node: int = 8, folder: str = "nemo_experiments") -> run.Partial:
    """The recipe called `name`, untouched."""
    place = BUILT_IN if name in importlib.import_module(BUILT_IN).NAMES else NEMO
    module = importlib.import_module(f"{place}.{name}")
    return module.pretrain_recipe(dir=folder, name=name, num_nodes=nodes, num_gpus_per_node=gpus_per_node)


def set_field(recipe: run.Partial, path: str, value: Any, name: str) -> None:
    """Set a dotted field; raises AttributeError naming recipe and field if the recipe lacks it."""
    *parents, last = path.split(".")
    target: Any = recipe
    for part in parents:
        target = getattr(target, part)
    try:
        setattr(target, last, value)
    except (AttributeError, TypeError) as error:
        raise AttributeError(f"recipe {name} has no field {path}: {error}") from None


def _data(recipe: run.Partial, plan: Plan) -> run.Config:
    paths: list[str] = []
    for source in plan.sources:
        paths += [repr(source.weight), source.pair.prefix]
    if len(plan.sources) == 1:
        paths = [plan.sources[0].pair.prefix]
    module, cache = _data_class(recipe), plan.folder.parent / INDEX_CACHE
    if module is not PreTrainingDataModule:  # whose order is ours
        cache = sample_order.writable_cache(cache)
    return run.Config(
        module,
        paths=paths,
        tokenizer=run.Config(AutoTokenizer, pretrained_model_name=source_of(plan), use_fast=True),
        num_workers=0 if plan.accelerator == "cpu" else 2,
        pin_memory=plan.accelerator == "gpu",
        persistent_workers=plan.accelerator == "gpu",
        index_mapping_dir=str(cache),
    )


def _data_class(recipe: run.Partial) -> type:
    """The pretraining data module of the recipe's family (GPT-like, T5 or BERT)."""
    family = recipe.data.__fn_or_cls__.__module__.split(".")[3]
    if family == "t5":
        return importlib.import_module("nemo.collections.llm.t5.data").PreTrainingDataModule
    if family == "bert":
        return importlib.import_module("nemo.collections.llm.bert.data").BERTPreTrainingDataModule
    return PreTrainingDataModule


def _set_ddp(recipe: run.Partial, plan: Plan) -> None:
    """14 recipes name their DDP by a string; spell it out, with the overlaps that all other recipes have."""
    strategy = recipe.trainer.strategy
    if isinstance(getattr(strategy, "ddp", "megatron"), str):
        strategy.ddp = run.Config(
            DistributedDataParallelConfig,
            check_for_nan_in_grad=True,
            overlap_grad_reduce=True,
            overlap_param_gather=True,
        )


FP8_RECIPES = {  # --fp8-recipe -> the name of NeMo's configuration, after the 16-bit type
    "delayed": "with_fp8_mixed",
    "tensorwise": "with_fp8_current_scaling_mixed",
    "blockwise": "with_fp8_subchannel_scaling_mixed",
    "mxfp8": "with_mxfp8_mixed",
}


def _set_precision(recipe: run.Partial, plan: Plan) -> None:
    """--precision and --fp8 as NeMo's plugin; without them the recipe's own stays."""
    precision, fp8 = plan.settings.precision, plan.settings.fp8
    if not precision and not fp8:
        return
    short = {None: "bf16", "bf16-mixed": "bf16", "16-mixed": "fp16", "32": "fp32"}[precision]
    if short == "fp32":
        plugin = run.Config(MegatronMixedPrecision, precision="32", params_dtype=torch.float32)
    elif fp8:
        plugin = getattr(mixed_precision, f"{short}_{FP8_RECIPES[plan.settings.fp8_recipe or 'delayed']}")()
    else:
        plugin = getattr(mixed_precision, f"{short}_mixed")()
    others = recipe.trainer.plugins
    if isinstance(others, list):  # beside NeMo's own plugins, in Nemotron-H and -Nano
        others = [p for p in others if p.__fn_or_cls__ is not MegatronMixedPrecision]
    recipe.trainer.plugins = [*others, plugin] if isinstance(others, list) else plugin
    set_field(recipe, "optim.config.bf16", short == "bf16", plan.model_name)
    set_field(recipe, "optim.config.fp16", short == "fp16", plan.model_name)


def _set_gradients(recipe: run.Partial, plan: Plan) -> None:
    """--grad-reduce-in-bf16: NeMo's plugin has the word over the recipe's DDP."""
    if not plan.settings.grad_reduce_in_bf16:
        return
    plugins = recipe.trainer.plugins
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if plugin.__fn_or_cls__ is MegatronMixedPrecision:
            plugin.grad_reduce_in_fp32 = False


def _set_optimizer_states(recipe: run.Partial, plan: Plan) -> None:
    """--optimizer-precision in megatron-core's types; the weights beside the moments stay in fp32."""
    config, asked = recipe.optim.config, plan.settings.optimizer_precision
    if asked:
        config.exp_avg_dtype = config.exp_avg_sq_dtype = torch.bfloat16 if asked == "bf16" else torch.float32
        config.main_grads_dtype = config.main_params_dtype = torch.float32
    known = {field.name for field in dataclasses.fields(config.__fn_or_cls__)}
    if getattr(config, "use_precision_aware_optimizer", False) and "store_param_remainders" in known:
        # the 16 bits that bf16 weights lack of fp32: megatron-core 0.15.3 writes them into a fully reshardable checkpoint
        # as if they were the weights, and can't load it again
        config.store_param_remainders = False


def _set_trainer(recipe: run.Partial, plan: Plan) -> None:
    trainer = recipe.trainer
    trainer.accelerator = plan.accelerator
    trainer.num_sanity_val_steps = 0
    trainer.limit_test_batches = 0
    # TensorBoard's values are read from the GPU, which then waits for the host
    trainer.log_every_n_steps = 1 if plan.accelerator == "cpu" else plan.settings.log_every
    if "ckpt_optim_fully_reshardable" in inspect.signature(trainer.strategy.__fn_or_cls__).parameters:
        # a checkpoint that any other TP, PP and DP can go on from; NeMo's default fits another DP only
        trainer.strategy.ckpt_optim_fully_reshardable = True
    if plan.accelerator == "gpu":
        trainer.strategy.ckpt_torch_dist_multiproc = shard_writer.processes(plan.layout.ranks_per_node)
    trainer.enable_progress_bar = False  # ours reads the metrics file instead
    trainer.strategy.replace_progress_bar = False


def _log(plan: Plan, resume_from: str | None) -> run.Config:
    folder = plan.folder
    resumed_at = int(resume_from.rpartition("_")[2]) if resume_from else None
    ckpt = run.Config(
        nl.ModelCheckpoint,
        dirpath=str(folder / "checkpoints"),
        filename=FILENAME,
        auto_insert_metric_name=False,
        monitor=None,
        save_last=False,  # every checkpoint is whole and can be resumed from; a "last" would be a second copy
        save_top_k=-1,  # the worker removes old ones itself, newest kept
        every_n_train_steps=plan.schedule.save_every,
        save_optim_on_train_end=True,
    )
    return run.Config(
        nl.NeMoLogger,
        # a folder of its own: NeMo moves every file it finds in its log folder aside when a run restarts
        explicit_log_dir=str(folder / "nemo_logs"),
        update_logger_directory=False,
        ckpt=ckpt,
        tensorboard=run.Config(loggers.RunTensorBoard, **loggers.tensorboard(plan, resumed_at)),
        wandb=run.Config(loggers.RunWandb, **loggers.wandb(plan)) if plan.settings.wandb else None,
    )


def _resume(plan: Plan, resume_from: str | None) -> run.Config:
    start = None
    if plan.settings.nemo_model:
        # no artifacts: NeMo would build whatever the checkpoint's context/io.json names; the tokenizer has its own flag
        start = run.Config(nl.RestoreConfig, path=plan.settings.nemo_model, load_artifacts=False)
    return run.Config(nl.AutoResume, resume_from_path=resume_from, restore_config=start)


def _take_model_of_checkpoint(recipe: run.Partial, saved: NemoModel) -> None:
    """The checkpoint's class of configuration and its architecture win over the recipe's: an import may have any."""
    kind = _config_class(saved)
    config = run.Config(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for name, value in recipe.model.config.__arguments__.items():
        if name in known and name not in ARCHITECTURE:
            setattr(config, name, value)
    for name in ARCHITECTURE & known & saved.sizes.keys():
        setattr(config, name, as_nemo(name, saved.sizes[name]))
    recipe.model.config = config


def _config_class(saved: NemoModel) -> type:
    """The checkpoint's class of configuration, from the module of NeMo's that it names; raises Refusal."""
    # pretrained.read_nemo_model has refused any module that isn't NeMo's
    kind = getattr(importlib.import_module(saved.config_module), saved.config_class, None)
    if not isinstance(kind, type) or not issubclass(kind, ModelParallelConfig):
        raise Refusal(no_such_class(saved))
    return kind


def _fit_cpu(recipe: run.Partial, plan: Plan) -> None:
    """What gloo and the CPU can't do, or do slower; the numbers stay those of the recipe."""
    strategy = recipe.trainer.strategy
    strategy.process_group_backend = "gloo"
    strategy.ckpt_async_save = False  # a second process for the writer costs more than the write
    strategy.ddp.overlap_grad_reduce = False
    strategy.ddp.overlap_param_gather = False
    strategy.ddp.average_in_collective = False  # gloo has no averaging all-reduce
    if plan.layout.virtual_pipeline > 1:
        # the one setting in which interleaved stages are right over gloo (PP=2: previous and next rank are the same)
        recipe.model.config.overlap_p2p_comm = True
        recipe.model.config.batch_p2p_comm = False
        recipe.model.config.deallocate_pipeline_outputs = False
    recipe.trainer.callbacks = [
        callback
        for callback in recipe.trainer.callbacks or []
        if callback.__fn_or_cls__.__name__ != "MegatronCommOverlapCallback"
    ]
