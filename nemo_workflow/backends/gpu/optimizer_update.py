"""The update of an optimizer with moments in bf16, some parameters at a time (Transformer Engine's FusedAdam).

FusedAdam 2.9 computes with fp32 copies of such moments, which it makes of all parameters at once: 8 bytes each, more than bf16
saves. Each parameter's update is its own, so that pieces give the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from nemo_workflow import backends
from nemo_workflow.backends.registry import find

NAME = "the optimizer's update in pieces"


def install() -> None:
    """Let FusedAdam step in pieces. Imports Transformer Engine."""
    from nemo_workflow.backends.gpu import aside

    aside.replace(NAME, find("backends.gpu.optimizer_update:in_pieces"))


def in_pieces(step: Any) -> Any:
    """The step of a torch optimizer, as one for each piece of each group."""

    @functools.wraps(step)
    def stepped(optimizer: Any, closure: Any = None, grad_scaler: Any = None) -> Any:
        loss = closure() if closure else None
        groups = optimizer.param_groups
        try:
            for group in groups:
                part = group
                for parameters in pieces(group["params"]):
                    part = {**group, "params": parameters}  # each begins with the group's own count of steps
                    optimizer.param_groups = [part]
                    step(optimizer, grad_scaler=grad_scaler)
                if "step" in part:
                    group["step"] = part["step"]
        finally:
            optimizer.param_groups = groups
        return loss

    return stepped


def pieces(parameters: list[Any]) -> Iterator[list[Any]]:
    """Parts of a list of tensors, in its order, of up to UPDATE_PIECE numbers; a larger tensor is one of its own."""
    part: list[Any] = []
    size = 0
    for parameter in parameters:
        if part and size + parameter.numel() > backends.UPDATE_PIECE:
            yield part
            part, size = [], 0
        part.append(parameter)
        size += parameter.numel()
    if part:
        yield part
