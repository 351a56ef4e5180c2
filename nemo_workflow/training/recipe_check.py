"""Whether the NeMo that a rank runs builds the model that was planned: the plan is made from the catalogue of one NeMo version."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fiddle as fdl

from nemo_workflow.backends.patching import replaced
from nemo_workflow.backends.registry import find
from nemo_workflow.config.plan import Plan
from nemo_workflow.models import catalog
from nemo_workflow.run_dir import metrics
from nemo_workflow.training import recipe
from nemo_workflow.utils import libraries
from nemo_workflow.utils.errors import Failure
from nemo_workflow.utils.files import write_json

# How the model is computed, set by the plan or by what is installed, not what the model is.
COMPUTED = ("recompute_", "cross_entropy_", "bias_activation_fusion", "moe_grouped_gemm", "seq_length")
# A difference that changes no size: said, and left to NeMo.
SAID = ("activation", "hidden_dropout", "attention_dropout")


def check_recipe(plan: Plan, attempt: Path, say: Callable[[str], None]) -> None:
    """Write the rank's versions into `attempt`, and compare NeMo's recipe with the plan's; before anything is built.

    Raises Failure where this NeMo lacks the recipe, or its model has other sizes than the plan was made with.
    """
    write_json(attempt / metrics.RANK_VERSIONS, metrics.versions())
    here = libraries.version("nemo_toolkit")
    if here == plan.nemo:
        return
    remedy = (
        f"the plan was made for NeMo {plan.nemo or 'of another version'}; train with that version, or make the plan with the"
        " recipes of this one: `python -m tools.generate_catalog` writes them where it runs"
    )
    try:
        stock = recipe.stock(plan)
    except ModuleNotFoundError as error:
        if not (error.name or "").endswith(f".{plan.model_name}"):
            raise
        raise Failure(f"--model-name {plan.model_name}: NeMo {here} has no such recipe; {remedy}") from None
    # sizes that come from a checkpoint are no catalogue's
    differing = {} if plan.settings.nemo_model else differences(plan.model_name, stock)
    sizes = [f"{name} {there} instead of {ours}" for name, (ours, there) in differing.items() if name not in SAID]
    if sizes:
        raise Failure(
            f"--model-name {plan.model_name}: in NeMo {here} it is another model ({', '.join(sizes)}); {remedy}"
        )
    for name, (ours, there) in differing.items():
        say(f"note: {name} of {plan.model_name} is {there} in NeMo {here}, {ours} in NeMo {plan.nemo}")


def differences(name: str, stock: Any) -> dict[str, tuple[Any, Any]]:
    """Field of the model's configuration -> (value in the catalogue, value in this NeMo), where both have it and differ."""
    planned = catalog.find(name).sizes
    with fusions_off():
        config = fdl.build(stock.model.config)
    found = {}
    for field, ours in planned.items():
        if field.startswith(COMPUTED):
            continue
        there = activation_of(config) if field == "activation" else plain(getattr(config, field, ours))
        if there != ours:
            found[field] = (ours, there)
    return found


def activation_of(config: Any) -> str:
    """The name of a model configuration's activation function."""
    return str(getattr(config.activation_func, "__name__", config.activation_func))


def plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, int | float | str | None) else repr(value)


@contextlib.contextmanager
def fusions_off() -> Iterator[None]:
    """Let every TransformerConfig be built on a machine without Transformer Engine."""
    with replaced(find("training.recipe_check:without_fusions")):
        yield


def without_fusions(original: Any) -> Any:
    """TransformerConfig's `__post_init__` with the fusions off."""

    def post_init(self: Any) -> None:
        for name in ("apply_rope_fusion", "gradient_accumulation_fusion", "moe_permute_fusion", "moe_router_fusion"):
            if hasattr(self, name):
                setattr(self, name, False)
        original(self)

    return post_init
