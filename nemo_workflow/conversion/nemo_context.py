"""context/ of a NeMo 2 folder: written by NeMo's own machinery, read as plain YAML.

NeMo's loader builds whatever io.json names, so an export never uses it: model.yaml holds the same config as data.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from nemo_workflow.models.architecture import as_nemo
from nemo_workflow.models.families import FAMILIES
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.not_converted import NOT_CONVERTED, refused
from nemo_workflow.models.tokenizer_files import check_ids, copy_for_nemo, files_of
from nemo_workflow.models.tokenizer_loading import first_line
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.libraries import collector_paused
from nemo_workflow.utils.scratch import scratch_folder

TOKENIZER = "nemo_tokenizer"  # the name that NeMo's importers use


def write_context(folder: Path, family: Family, config_class: str, fields: Config, source: Path) -> list[str]:
    """Write `folder`/context as NeMo's `import_ckpt` does; returns what is to be said about it. Imports NeMo (9 s)."""
    import_nemo(family)
    from nemo import lightning as nl
    from nemo.lightning.io.pl import TrainerContext

    generation, notes = _generation_config(source)
    config = build_config(family, config_class, fields, generation)
    with scratch_folder() as scratch:
        staged = scratch / TOKENIZER
        copied = copy_for_nemo(source, staged)
        tokenizer, more = _nemo_tokenizer(staged)
        notes += more
        model = find_class(family, family.model_class)(config, tokenizer=tokenizer)
        strategy = nl.MegatronStrategy(ckpt_save_optimizer=False, always_save_context=True)
        trainer = nl.Trainer(devices=1, accelerator="cpu", strategy=strategy)
        TrainerContext(model=model, trainer=trainer, extra={}).io_dump(folder / "context", yaml_attrs=["model"])
        if tokenizer is None and copied:  # NeMo writes the files of a tokenizer that it has loaded
            shutil.copytree(staged, folder / "context" / TOKENIZER)
    return notes


def _nemo_tokenizer(staged: Path) -> tuple[Any, list[str]]:
    """(NeMo's tokenizer of a folder, notes); None where there is none, or none that can be loaded."""
    if not files_of(staged):
        return None, ["the source has no tokenizer files, so the checkpoint has none"]
    from nemo.collections.common.tokenizers import AutoTokenizer

    try:
        check_ids(staged)
        return AutoTokenizer(str(staged)), []
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a tokenizer's files; the weights don't need it
        why = first_line(error.__context__ or error)
        return None, [f"the tokenizer can't be loaded ({why}); its files were copied as they are"]


def _generation_config(source: Path) -> tuple[Any, list[str]]:
    """(transformers' object, notes) of a folder's generation_config.json."""
    if not (source / "generation_config.json").exists():
        return None, []
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source), []
    except Exception as error:  # noqa: BLE001 - whatever transformers has against values of another version's
        return None, [f"transformers refuses generation_config.json ({first_line(error)}); it was copied as it is"]


def build_config(family: Family, config_class: str, fields: Config, generation: Any = None) -> Any:
    """A NeMo config object; `params_dtype` among the fields is a torch dtype's name."""
    import torch

    prepare()
    dtype = fields["params_dtype"]
    values = {name: as_nemo(name, value) for name, value in fields.items()}
    values |= {"params_dtype": getattr(torch, dtype), "bf16": dtype == "bfloat16", "fp16": dtype == "float16"}
    if generation is not None:
        values["generation_config"] = generation
    config = find_class(family, config_class)(**values)
    for name, wanted in family.nemo_fixed.items():
        value = getattr(config, name)
        if name_of(value) != wanted and value != wanted:
            raise AssertionError(f"{config_class}.{name} is {value!r}, and the conversion needs {wanted!r}")
    return config


def prepare() -> None:
    """Compute on the CPU, by Megatron's own layers, whether or not this machine has a GPU and Transformer Engine.

    Transformer Engine computes on a GPU only, and its products there are TF32, too coarse to tell a wrong
    model from rounding.
    """
    from nemo_workflow.backends import cpu, deferred
    from nemo_workflow.backends.patching import CPU, GPU_ONLY, RANK

    for module in GPU_ONLY:
        if sys.modules.setdefault(module, None) is not None:  # type: ignore[arg-type]  # None: it can't be imported
            return  # this process uses the GPU already
    deferred.install(RANK, CPU)
    cpu.install(strict=False)


def import_nemo(family: Family) -> None:
    """Import what the family's models need (9 s)."""
    with collector_paused():
        prepare()
        find_class(family, family.model_class)


def find_class(family: Family, name: str) -> Any:
    """A model or config class of NeMo's, from the family's module."""
    module = importlib.import_module(f"nemo.collections.llm.gpt.model.{family.module}")
    if not hasattr(module, name):
        raise Refusal(f"the installed NeMo has no {module.__name__}.{name}")
    return getattr(module, name)


def name_of(value: Any) -> str | None:
    """torch.nn.functional.silu -> its dotted name."""
    if callable(value) and hasattr(value, "__name__"):
        return f"{value.__module__}.{value.__name__}"
    return None


# --- reading ----------------------------------------------------------------------------------------------------------
class _Loader(yaml.SafeLoader):
    """Plain data, and the tuples that NeMo writes among them."""


def _tuple(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node)


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_model(folder: Path) -> tuple[str, Config, Config]:
    """(model class name, its config's fields, the tokenizer's fields) of a NeMo 2 folder; the class goes under `_target_`."""
    path = folder / "context" / "model.yaml"
    try:
        model = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise Refusal(f"{path}: can't be read ({error.strerror}): NeMo writes it with every checkpoint") from error
    except yaml.YAMLError as error:
        raise Refusal(f"{path}: is not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(model, dict) or not isinstance(model.get("config"), dict) or "_target_" not in model:
        raise Refusal(f"{path}: is not a NeMo model's config")
    return model["_target_"].rsplit(".", 1)[-1], model["config"], model.get("tokenizer") or {}


def family_of(model_class: str, config: Config) -> Family:
    """The family of a NeMo model, by its class and, where one class serves two, by its config."""
    config_class = str(config.get("_target_", "")).rsplit(".", 1)[-1]
    fits = [family for family in FAMILIES if family.model_class == model_class]
    if (fits or model_class in NOT_CONVERTED) and (why := refused(model_class, config_class)):
        raise Refusal(f"context/model.yaml: NeMo's {config_class if fits else model_class} is not converted: {why}")
    moe = config.get("num_moe_experts") is not None
    if model_class == "DeepSeekModel":
        version = 3 if config.get("moe_router_enable_expert_bias") else 2
        fits = [family for family in fits if family.name == f"deepseek_v{version}"]
    elif len(fits) > 1:
        fits = [family for family in fits if (family.nemo_fixed.get("num_moe_experts", 1) is not None) == moe]
    if not fits:
        known = ", ".join(sorted({family.model_class for family in FAMILIES}))
        raise Refusal(f"context/model.yaml: NeMo's {model_class} is not converted: these are: {known}")
    return fits[0]


def tokenizer_folder(folder: Path, tokenizer: Config) -> tuple[Path | None, str | None]:
    """(folder with the tokenizer's files and config.json, its name if they aren't there)."""
    if not tokenizer:  # an import writes files here that NeMo made no tokenizer of
        kept = folder / "context" / TOKENIZER
        return (kept if kept.is_dir() else None), None
    name = tokenizer.get("pretrained_model_name")
    if isinstance(name, dict):  # NeMo marks a Hub id so
        name = name.get("attr")
    if not isinstance(name, str):
        return None, None
    context = (folder / "context").resolve()
    inside = (context / name).resolve()
    if inside.is_dir() and inside.is_relative_to(context):
        return inside, None
    return None, name
