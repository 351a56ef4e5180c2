"""The precision of the optimizer's states, and the bytes that parameters take with it."""

from __future__ import annotations

from nemo_workflow.backends import UPDATE_PIECE
from nemo_workflow.config.settings import Settings
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.models.parameters import Model

FIELD = "optim.config.use_precision_aware_optimizer"


def bf16_moments(settings: Settings, recipe: Recipe) -> bool:
    """Whether Adam's moments are in bf16: as --optimizer-precision says, else as in the recipe (DeepSeek V3's)."""
    if settings.optimizer_precision:
        return settings.optimizer_precision == "bf16"
    return bool(recipe.fields[FIELD])


def bytes_a_parameter(precision: str, fp32_grad_reduce: bool, sgd: bool, bf16: bool) -> tuple[int, int, int]:
    """Bytes of weight, gradient and optimizer state a parameter: Adam has two moments, and weights of 16 bits an fp32 copy.

    fp8 weights are kept with their transpose: two bytes too.
    """
    moments = 4 if sgd or bf16 else 8
    if precision == "32":
        return 4, 4, moments
    return 2, 4 if fp32_grad_reduce else 2, 4 + moments


def update_bytes(share: float, largest: int) -> float:
    """What an update takes beside the states where they are in bf16: of a piece two moments in fp32, and one on its way back.

    Args:
        share: parameters whose states are on this GPU.
        largest: parameters of the largest tensor.
    """
    return 10 * min(share, max(UPDATE_PIECE, largest))


def checkpoint_bytes(model: Model, precision: str = "bf16-mixed", sgd: bool = False) -> int:
    """Size of a checkpoint on disk: the weights, fp32 weights and the optimizer's moments, in fp32 too, each once."""
    moments = 1 if sgd else 2
    if precision == "32":
        return (4 + 4 * moments) * model.total
    return (2 + 4 + 4 * moments) * model.total
