"""Packages that libraries import and a pretraining or a conversion never uses: loaded when somebody first asks for what they hold."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nemo_workflow.backends import transformers_models
from nemo_workflow.backends.deferral import Package, collected, defer, has_run, with_stand_ins
from nemo_workflow.backends.patching import LAUNCHER, RANK, fits
from nemo_workflow.backends.registry import DEFERRED
from nemo_workflow.utils.libraries import version


def install(*places: str) -> None:
    """Defer what nemo_run brings, and what has these places in its row (RANK, CPU), in this process; imports none of it.

    A package of another version than its row's is imported as ever.
    """
    rows = [row for row in DEFERRED if row.where in (LAUNCHER, *places)]
    here = [row for row in rows if version(row.library) is not None and fits(row)]
    defer(package for row in here for package in row.maker()())
    if RANK in places:
        transformers_models.read_once()


def torchmetrics() -> list[Package]:
    """Lightning takes four names of it, which need neither SciPy nor matplotlib nor transformers."""
    taken = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}
    names: dict[str, Callable[[], Any]] = {
        name: lambda name=name, module=module: getattr(importlib.import_module(f"torchmetrics.{module}"), name)  # type: ignore[misc]
        for name, module in taken.items()
    }
    whole = Package(
        "torchmetrics",
        alone=frozenset(
            f"torchmetrics.{name}" for name in ("__about__", "aggregation", "collections", "metric", "utilities")
        ),
        first="torchmetrics.utilities",  # which imports metric, which imports its parts
        names=names | {"_logger": lambda: logging.getLogger("torchmetrics")},
    )
    plot = with_stand_ins("torchmetrics.utilities.plot", "_AX_TYPE", "_PLOT_OUT_TYPE", "plot_single_or_multi_val")
    return [whole, plot]


def wandb() -> list[Package]:
    """Megatron and Lightning only look whether it is there."""
    return [Package("wandb")]


def scikit_learn() -> list[Package]:
    """transformers takes one function of it, which only the generation with an assistant model calls."""
    return [Package("sklearn", alone=frozenset({"sklearn.metrics"})), with_stand_ins("sklearn.metrics", "roc_curve")]


def scipy() -> list[Package]:
    """transformers takes one function of it, which only the losses of models that detect objects call."""
    return [with_stand_ins("scipy.optimize", "linear_sum_assignment")]


def pandas() -> list[Package]:
    """NeMo's tokenizers import it, to read tables that one of them is trained with."""
    return [Package("pandas")]


def compiler() -> list[Package]:
    """Lightning and transformers take a class of it, and torch and transformers mark functions of their own for it."""
    name = "torch._dynamo"

    def disable(fn: Any = None, *arguments: Any, **options: Any) -> Any:
        if has_run(name):
            return importlib.import_module(name).disable(fn, *arguments, **options)
        return (lambda function: function) if fn is None else fn

    def allow_in_graph(fn: Any) -> Any:
        return importlib.import_module(name).allow_in_graph(fn) if has_run(name) else fn

    def graph_break(*arguments: Any, **options: Any) -> None:  # around each step of torch's optimizers
        if has_run(name):
            importlib.import_module(name).graph_break(*arguments, **options)

    nothing_traced = SimpleNamespace(clear_lru_cache=lambda: None)  # torch.distributed asks for it at its start
    names = {
        "disable": lambda: disable,
        "allow_in_graph": lambda: allow_in_graph,
        "graph_break": lambda: graph_break,
        "trace_rules": lambda: nothing_traced,
    }
    tracing = f"{name}._trace_wrapped_higher_order_op"
    stand_in = with_stand_ins(name, "OptimizedModule")
    return [
        Package(name, alone=frozenset({tracing}), names={**stand_in.names, **names}),
        with_stand_ins(tracing, "TransformGetItemToIndex"),
    ]


def nemo_llm() -> list[Package]:
    """NeMo's language models: one of them is trained, and the package imports all, their recipes and their data."""
    below = ("gpt.model", "gpt.data", "bert.model", "bert.data", "t5.model", "t5.data", "recipes", "inference")
    llm = "nemo.collections.llm"
    tuning = with_stand_ins(f"{llm}.gpt.data.core", "create_sft_dataset", "get_dataset_root")  # imports Datasets
    return [collected(llm), *(collected(f"{llm}.{name}") for name in below), tuning]


def modelopt() -> list[Package]:
    """NeMo asks it at each save and load whether it has converted the model, which it can't have where it has not run."""
    parts = ("distill", "export", "opt", "prune", "quantization", "speculative")
    whole = Package("modelopt.torch", alone=frozenset(f"modelopt.torch.{part}" for part in parts))
    state = Package("modelopt.torch.opt", names={"ModeloptStateManager": lambda: _NotConverted})
    distill = with_stand_ins("modelopt.torch.distill", "DistillationModel", "DistillationLossBalancer")
    others = [Package(f"modelopt.torch.{part}") for part in parts if part not in ("opt", "distill")]
    return [whole, state, distill, *others, *_nemo_modelopt()]


def networkx() -> list[Package]:
    """nemo_run sorts jobs with it that depend on each other, and ours never do."""
    return [Package("networkx")]


def leptonai() -> list[Package]:
    """nemo_run's executor for a cloud takes classes of it, for its functions and their annotations."""
    types = {
        "affinity": ("LeptonResourceAffinity",),
        "common": ("Metadata", "LeptonVisibility"),
        "dedicated_node_group": ("DedicatedNodeGroup",),
        "deployment": ("EnvVar", "EnvValue", "LeptonContainer", "Mount", "QueueConfig"),
        "job": ("LeptonJob", "LeptonJobState", "LeptonJobUserSpec", "ReservationConfig"),
        "replica": ("Replica",),
    }
    api = "leptonai.api"
    within = {
        "leptonai": (api,),
        api: (f"{api}.v1", f"{api}.v2"),
        f"{api}.v1": (f"{api}.v1.types",),
        f"{api}.v1.types": tuple(f"{api}.v1.types.{name}" for name in types),
        f"{api}.v2": (f"{api}.v2.client",),
    }
    return [
        *(Package(name, alone=frozenset(parts)) for name, parts in within.items()),
        *(with_stand_ins(f"{api}.v1.types.{name}", *names) for name, names in types.items()),
        with_stand_ins(f"{api}.v2.client", "APIClient"),
    ]


def _nemo_modelopt() -> list[Package]:
    """NeMo's own modules about it, whose classes have its classes as their bases."""
    ours = "nemo.collections.llm.modelopt"
    places = {
        "distill.model": ("DistillationGPTModel",),
        "model_utils": ("set_modelopt_spec_if_exists_in_ckpt", "setup_trainer_and_restore_model_with_modelopt_spec"),
        "prune.pruner": ("PruningConfig", "prune_language_model", "save_pruned_model"),
        "quantization.quantizer": ("ExportConfig", "QuantizationConfig", "Quantizer"),
    }
    elsewhere = {name: f"{ours}.{place}" for place, names in places.items() for name in names}
    losses = ("HiddenStateCosineLoss", "LogitsAndIntermediatesLossBalancer", "LogitsKLLoss", "ProjectionLayer")
    return [
        with_stand_ins(ours, **elsewhere),
        collected(f"{ours}.distill"),
        collected(f"{ours}.prune"),
        collected(f"{ours}.quantization"),
        with_stand_ins(f"{ours}.distill.loss", *losses),
    ]


class _NotConverted:
    """modelopt's ModeloptStateManager, until modelopt has run."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        return cls._real()(*arguments, **keywords)

    @staticmethod
    def _real() -> Any:
        return importlib.import_module("modelopt.torch.opt.conversion").ModeloptStateManager

    @classmethod
    def is_converted(cls, model: Any, is_root: bool = False) -> bool:
        """Whether modelopt has changed the model."""
        return has_run("modelopt.torch.opt") and bool(cls._real().is_converted(model, is_root))
