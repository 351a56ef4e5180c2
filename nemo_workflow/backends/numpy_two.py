"""megatron-core beside numpy 2, which some images hold: this project pins numpy 1.26."""

from __future__ import annotations

from typing import Any

from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find


def install() -> None:
    """Give numpy 2 the name back that megatron-core's saves ask for."""
    replace(find("backends.numpy_two:product"))


def product(stock: Any) -> Any:
    """What `numpy.product` was until numpy 2."""
    import numpy as np

    return np.prod
