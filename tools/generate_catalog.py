"""Write catalog.json from NeMo itself: `python -m tools.generate_catalog [FILE]` (imports NeMo, about 20 s).

Every recipe module with a `pretrain_recipe` is built, and so is its model configuration; the catalogue holds what the
light packages need of them. Kernel fusions are switched off for the build, because without Transformer Engine some of
them refuse to be configured; they change no size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiddle as fdl

from nemo_workflow.backends import memory_pool

memory_pool.leave_out()  # before NeMo is imported

from nemo_workflow.config.flags import TABLE  # noqa: E402
from nemo_workflow.models.catalog import FILE, LAYOUT_FIELDS  # noqa: E402
from nemo_workflow.training.recipe_check import activation_of, fusions_off, plain  # noqa: E402
from nemo_workflow.utils.arguments import Parser  # noqa: E402
from nemo_workflow.utils.errors import run_command  # noqa: E402
from nemo_workflow.utils.files import written_aside  # noqa: E402
from nemo_workflow.utils.libraries import version  # noqa: E402

# Fields of the model configuration that decide parameter counts, activation sizes or rules.
SIZES = (
    "num_layers",
    "encoder_num_layers",
    "mtp_num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "share_embeddings_and_output_weights",
    "make_vocab_size_divisible_by",
    "vocab_size",
    "position_embedding_type",
    "gated_linear_unit",
    "bias_activation_fusion",
    "add_bias_linear",
    "add_qkv_bias",
    "normalization",
    "qk_layernorm",
    "hidden_dropout",
    "attention_dropout",
    "num_moe_experts",
    "moe_router_topk",
    "moe_ffn_hidden_size",
    "moe_shared_expert_intermediate_size",
    "moe_layer_freq",
    "moe_router_enable_expert_bias",
    "moe_grouped_gemm",
    "multi_latent_attention",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_head_dim",
    "qk_pos_emb_head_dim",
    "v_head_dim",
    "hybrid_override_pattern",
    "mamba_state_dim",
    "mamba_head_dim",
    "mamba_num_groups",
    "mamba_num_heads",
    "window_size",
    "seq_length",
    "max_position_embeddings",
    "seq_length_dec",
    "relative_attention_num_buckets",
    "add_attn_proj_bias",
    "num_groups_hyena",
    "num_groups_hyena_medium",
    "num_groups_hyena_short",
    "use_short_conv_bias",
    "cross_entropy_loss_fusion",
    "cross_entropy_fusion_impl",
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
    "recompute_modules",
    "fp32_residual_connection",
    "add_lm_head",
    "bert_binary_head",
    "add_pooler",
    "num_tokentypes",
)

# Vocabulary of the tokenizer that a family was published with, where the configuration leaves it to the tokenizer.
VOCABULARIES = {
    "Baichuan2": 125_696,
    "ChatGLM": 65_024,
    "DeepSeek": 102_400,
    "DeepSeekV3": 129_280,
    "Gemma": 256_000,
    "Hyena": 512,
    "Llama": 128_256,
    "Llama2": 32_000,
    "Mistral": 32_000,
    "MistralNeMo": 131_072,
    "MistralSmall": 131_072,
    "Mixtral": 32_000,
    "Mixtral8x22B": 32_768,
    "Nemotron": 256_000,
    "Starcoder": 49_152,
    "BaseMamba": 50_277,
    "NVIDIAMamba": 256_000,
    "MegatronBert": 30_522,
    "T5": 32_100,
    "GPT": 50_257,
}
# max_position_embeddings of the published models where NeMo's classes name a shorter length
PUBLISHED_LENGTHS = {
    "deepseek_v2": 163_840,
    "deepseek_v3": 163_840,
    "llama4_e128": 1_048_576,
    "llama4_e16": 10_485_760,
    "mistral_nemo": 131_072,
    "mixtral_8x22b": 65_536,
    "mixtral_8x7b": 32_768,
    "qwen2_": 131_072,
}
OURS: dict[str, dict[str, Any]] = {
    "llama_125m": {"reference_vocab": 50_257, "longest_sequence": 8192},
    "llama_350m": {"reference_vocab": 50_257, "longest_sequence": 8192},
    "llama_tiny": {"reference_vocab": 4096, "longest_sequence": 8192},
}


EXTRA = {  # set by what the plan works out
    "optim.config.optimizer_offload_fraction",
    "optim.config.use_distributed_optimizer",
    "optim.config.use_precision_aware_optimizer",
    "optim.lr_scheduler.warmup_ratio",
    "trainer.limit_val_batches",
}


def command() -> None:
    """Parse the command line, and write the catalogue."""
    parser = Parser(
        prog="python -m tools.generate_catalog",
        description="Write the catalogue of recipes from NeMo itself (imports NeMo; half a minute).",
    )
    parser.add_argument("file", nargs="?", type=Path, default=FILE, help="where to (default: the package's own)")
    main(parser.parse_args().file)


def main(file: Path = FILE) -> None:
    """Build all recipes and write the catalogue to `file`; recipes that NeMo itself can't build are named on stderr."""
    recipes: dict[str, Any] = {}
    entries: dict[str, dict[str, Any]] = {}
    with fusions_off():
        for name, module in recipe_modules():
            try:
                recipes[name] = module.pretrain_recipe(dir="/recipe", name=name)
            except NotImplementedError as error:
                print(f"{name}: left out, NeMo doesn't build it: {error}", file=sys.stderr)
                continue
            entries[name] = describe(name, recipes[name])
    with one_rank():
        for name, recipe in recipes.items():
            entries[name]["parameters"] = parameters_on_cpu(recipe, entries[name]["reference_vocab"])
    write(entries, file)
    print(f"{file.name}: {len(entries)} recipes", file=sys.stderr)


def fields() -> list[str]:
    """The recipe fields that a flag sets, each of which every recipe was asked for."""
    return sorted({path for option in TABLE for path in option.sets})


def write(entries: dict[str, dict[str, Any]], file: Path) -> None:
    """One recipe a line, so that a new NeMo shows in the diff."""
    with written_aside(file) as stream:
        rows = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(entries.items()))
        stream.write(f'{{"nemo_toolkit": {json.dumps(version("nemo_toolkit"))},\n"fields": {json.dumps(fields())},\n')
        stream.write('"recipes": {\n')
        stream.write(",\n".join(rows) + "\n}}\n")


def recipe_modules() -> list[tuple[str, Any]]:
    """(name, module) of every recipe module of NeMo's and ours that has a `pretrain_recipe`."""
    found = []
    for package in ("nemo.collections.llm.recipes", "nemo_workflow.models.recipes"):
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            module = importlib.import_module(f"{package}.{info.name}")
            if hasattr(module, "pretrain_recipe"):
                found.append((info.name, module))
    return found


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """A Megatron world of this process alone, on the CPU."""
    import torch
    from megatron.core import parallel_state

    from nemo_workflow.backends import cpu

    cpu.install(strict=False)  # a catalogue may be made from another NeMo
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    parallel_state.initialize_model_parallel()
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


class _Vocabulary:
    """All that building a model asks of a tokenizer."""

    def __init__(self, size: int):
        self.vocab_size = size


def parameters_on_cpu(recipe: Any, vocabulary: int) -> int | None:
    """Parameters of the recipe's model, built on the meta device; None where it needs a GPU's libraries."""
    import torch

    for name in ("NVTE_FUSED_ATTN", "NVTE_FLASH_ATTN", "NVTE_UNFUSED_ATTN"):
        os.environ.pop(name, None)  # the last model's choice of an attention kernel
    try:
        config = fdl.build(recipe.model.config)
        config.perform_initialization = False
        with torch.device("meta"):
            model = config.configure_model(_Vocabulary(vocabulary))
    except (ImportError, NameError, AttributeError, TypeError):
        return None  # Transformer Engine or mamba-ssm is missing, each recipe says so in its own way
    return sum(parameter.numel() for parameter in model.parameters())


def _sizes(config: Any) -> dict[str, Any]:
    found = {field: plain(getattr(config, field)) for field in SIZES if hasattr(config, field)}
    return {**found, "activation": activation_of(config)}


def describe(name: str, recipe: Any) -> dict[str, Any]:
    """One entry of the catalogue."""
    config = fdl.build(recipe.model.config)
    entry = {
        "model_class": recipe.model.__fn_or_cls__.__name__,
        "config_class": type(config).__name__,
        "family": _family(type(config)),
        "sizes": _sizes(config),
        "layout": _layout(recipe.trainer),
        "fields": _fields(recipe, config),
        "fp32_grad_reduce": _grad_reduce_in_fp32(recipe.trainer),
        "precision": _precision(recipe.trainer.plugins),
        "callbacks": [callback.__fn_or_cls__.__name__ for callback in recipe.trainer.callbacks or []],
        "reference_vocab": config.vocab_size if getattr(config, "vocab_size", None) else _vocabulary(type(config)),
        "longest_sequence": _longest(name, config, recipe),
        "lacks": [path for option in TABLE for path in option.sets if not has_field(recipe, path)],
    }
    return entry | OURS.get(name, {})


def has_field(recipe: Any, path: str) -> bool:
    """Whether the recipe, with real data in place of NeMo's mock, has a dotted field."""
    *parents, last = path.split(".")
    if parents == ["data"]:
        return last in inspect.signature(data_class(recipe)).parameters
    target = recipe
    for part in parents:
        target = getattr(target, part, None)
    if not isinstance(target, fdl.Buildable):
        return path.startswith("trainer.strategy.ddp.")  # a name in a string: spelled out before it is set
    parameters = inspect.signature(target.__fn_or_cls__).parameters
    # Lightning's trainer is wrapped and takes anything by name
    return last in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def data_class(recipe: Any) -> type:
    """The pretraining data module of the recipe's family."""
    family = recipe.data.__fn_or_cls__.__module__.split(".")[3]
    names = {"t5": "t5.data.pre_training", "bert": "bert.data.pre_training"}
    module = importlib.import_module(f"nemo.collections.llm.{names.get(family, 'gpt.data.pre_training')}")
    return getattr(module, "BERTPreTrainingDataModule" if family == "bert" else "PreTrainingDataModule")


def _family(config_class: type) -> str:
    names = [cls.__name__ for cls in config_class.__mro__]
    for family, base in (("t5", "T5Config"), ("bert", "BertConfig"), ("hyena", "HyenaConfig"), ("ssm", "SSMConfig")):
        if base in names:
            return family
    return "gpt"


def _vocabulary(config_class: type) -> int:
    known = [prefix for prefix in VOCABULARIES if config_class.__name__.startswith(prefix)]
    return VOCABULARIES[max(known, key=len)]


def _longest(name: str, config: Any, recipe: Any) -> int | None:
    """The longest sequence that the published model, NeMo's model class, or the recipe names; None without a limit."""
    if getattr(config, "position_embedding_type", None) == "none" or _family(type(config)) == "hyena":
        return None
    fields = {field.name: field.default for field in dataclasses.fields(type(config))}
    lengths = [config.seq_length, recipe.data.seq_length, getattr(config, "max_position_embeddings", 0)]
    lengths += [length for prefix, length in PUBLISHED_LENGTHS.items() if name.startswith(prefix)]
    if isinstance(fields.get("seq_length"), int):
        lengths.append(fields["seq_length"])
    return max(lengths)


def _layout(trainer: Any) -> dict[str, Any]:
    strategy = trainer.strategy
    return {
        "nodes": trainer.num_nodes,
        "gpus": trainer.devices,
        "tensor": strategy.tensor_model_parallel_size,
        "pipeline": strategy.pipeline_model_parallel_size,
        "virtual_pipeline": getattr(strategy, "virtual_pipeline_model_parallel_size", None) or 1,
        "context": getattr(strategy, "context_parallel_size", 1),
        "expert": getattr(strategy, "expert_model_parallel_size", 1) or 1,
        "expert_tensor": getattr(strategy, "expert_tensor_parallel_size", None),
        "sequence_parallel": bool(getattr(strategy, "sequence_parallel", False)),
        "first_stage_layers": getattr(strategy, "num_layers_in_first_pipeline_stage", None),
        "last_stage_layers": getattr(strategy, "num_layers_in_last_pipeline_stage", None),
        "embedding_counts": bool(getattr(strategy, "account_for_embedding_in_pipeline_split", False)),
        "loss_counts": bool(getattr(strategy, "account_for_loss_in_pipeline_split", False)),
    }


def _fields(recipe: Any, config: Any) -> dict[str, Any]:
    """Dotted field -> stock value, for every field that a flag sets; what the layout holds is left out."""
    paths = {path for option in TABLE for path in option.sets} - set(LAYOUT_FIELDS.values())
    return {path: plain(_value(recipe, config, path)) for path in sorted(paths | EXTRA) if has_field(recipe, path)}


def _value(recipe: Any, config: Any, path: str) -> Any:
    if path.startswith("model.config."):
        return getattr(config, path.rpartition(".")[2])
    if path.startswith("data."):
        name = path.rpartition(".")[2]
        default = inspect.signature(data_class(recipe)).parameters[name].default
        return getattr(recipe.data, name, default)
    target = recipe
    for part in path.split("."):
        target = getattr(target, part, None)
    return target


def _grad_reduce_in_fp32(trainer: Any) -> bool:
    plugin = trainer.plugins[0] if isinstance(trainer.plugins, list) else trainer.plugins
    return bool(getattr(plugin, "grad_reduce_in_fp32", False))


def _precision(plugins: Any) -> dict[str, Any]:
    plugin = plugins[0] if isinstance(plugins, list) else plugins
    return {
        "plugin": plugin.__fn_or_cls__.__name__,
        "in_a_list": isinstance(plugins, list),
        "precision": plugin.precision,
        "fp8": getattr(plugin, "fp8", None),
        "fp8_recipe": getattr(plugin, "fp8_recipe", None),
    }


if __name__ == "__main__":
    run_command(command)
